"""A file that is no recording at all is never taken for one that was cut off."""

from __future__ import annotations

import pytest

from qmpguard.errors import UsageError
from qmpguard.recording.reader import read_lines


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"recording": 99}'])
def test_a_first_line_without_its_end_is_no_excuse(text: str) -> None:
    with pytest.raises(UsageError, match="file:1: this is no line of a recording"):
        list(read_lines([text], "file"))
