"""A file that is no recording at all is never taken for one that was cut off."""

from __future__ import annotations

from io import StringIO

import pytest

from qmpguard.errors import UsageError
from qmpguard.recording import reader
from qmpguard.recording.reader import lines_of_file, read_lines


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"recording": 99}'])
def test_a_first_line_without_its_end_is_no_excuse(text: str) -> None:
    with pytest.raises(UsageError, match="file:1: this is no line of a recording"):
        list(read_lines([text], "file"))


def test_a_file_without_a_lines_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_LINE", 10)
    assert list(lines_of_file(StringIO("123456789\nx"), "file")) == ["123456789\n", "x"]
    endless = StringIO("x" * 1000)
    with pytest.raises(UsageError, match="file: it has a line of more than"):
        list(lines_of_file(endless, "file"))
    assert endless.tell() == 11


@pytest.mark.parametrize("nested", ["[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200])
def test_a_line_of_many_levels_is_none(nested: str) -> None:
    text = f'{{"vm": "v", "event": "STOP", "data": {{"a": {nested}}}}}\n'
    with pytest.raises(UsageError, match=r"file:2: .* more than 100 levels"):
        list(read_lines(['{"recording": 1}\n', text], "file"))


@pytest.mark.parametrize("time", ["1" + "0" * 400, "1e999", "NaN", "true", '"noon"'])
def test_a_time_that_is_none_spoils_no_line(time: str) -> None:
    [(number, _)] = read_lines([f'{{"recording": 1, "time": {time}}}\n'], "file")
    assert number == 1
