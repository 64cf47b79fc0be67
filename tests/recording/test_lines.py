"""The lines of a recording: each is read as it was written, and what cannot be read is said with its place."""

from __future__ import annotations

import json

import pytest

from qmpguard.errors import UsageError
from qmpguard.recording.lines import (
    EventSeen,
    Exchange,
    Line,
    LinesLost,
    LinkLost,
    LinkUp,
    PolicyInUse,
    QemuStarted,
    RecordingBegins,
    Remembered,
    Said,
    write_line,
)
from qmpguard.recording.reader import parse_line, read_lines
from qmpguard.wire.json import Number, encode

LINES: list[Line] = [
    RecordingBegins(program="qmpguard 1", time=1.5),
    QemuStarted("vm", ("qemu", "-S")),
    LinkUp("vm", "11.1.3", 2.0),
    PolicyInUse("vm", {"mode": "warn"}, ("a", "b")),
    Remembered("vm", {"hidden": [{"path": "/p", "type": "vfio-pci"}]}),
    Exchange("vm", "stop", None, {"return": {}}),
    Exchange("vm", "getfd", {"fdname": "x"}, {"return": {}}, 3, oob=True, descriptor=True, time=3.25),
    Exchange("vm", "query-x", {}, {"return": [Number("2.5")]}, "guard"),
    Exchange(
        "vm", "migrate", {"uri": "u"}, {"error": {"class": "GenericError", "desc": "no"}}, 1, said=Said("allowed")
    ),
    Exchange("vm", "migrate", None, {"return": {}}, said=Said("refused", (("one", "enforce"), ("two", "warn")))),
    EventSeen("vm", "STOP", {}),
    EventSeen("vm", "MIGRATION", {"status": "setup"}, 4.0),
    LinkLost("vm", "QEMU closed the connection", 5.0),
    LinesLost(7),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: type(line).__name__)
def test_a_line_is_read_as_it_was_written(line: Line) -> None:
    assert parse_line(encode(write_line(line)).decode()) == line


def test_unknown_members_are_passed_over() -> None:
    assert parse_line('{"vm": "a", "event": "STOP", "new": 1}') == EventSeen("a", "STOP", {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "Expecting value"),
        ("[]", "it is no object"),
        ("{}", "it has none of recording, execute"),
        ('{"recording": 2}', "its format is 2, and this version reads up to 1"),
        ('{"recording": true}', "its format is True"),
        ('{"execute": "x", "reply": {}}', "'vm' is a string"),
        ('{"vm": "a", "execute": "x"}', "'reply' is an object"),
        ('{"vm": "a", "execute": 1, "reply": {}}', "'execute' is a string"),
        ('{"vm": "a", "execute": "x", "reply": {}, "said": 1}', "'said' is an object"),
        ('{"vm": "a", "start": 1}', "'start' is a list"),
        ('{"vm": "a", "policy": {}, "own": 1}', "'own' is a list"),
        ("[" * 100000, "recursion"),
    ],
)
def test_what_is_no_line_is_said_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(
        UsageError, match="recursion" if reason == "recursion" else reason.replace("{", r"\{")
    ) as caught:
        list(read_lines(['{"recording": 1}\n', f"{text}\n"], "file"))
    assert str(caught.value).startswith("file:2: this is no line of a recording: ")


def test_a_file_that_begins_otherwise_is_no_recording() -> None:
    with pytest.raises(UsageError, match="file:1: this is no recording"):
        list(read_lines(['{"vm": "a", "event": "STOP"}\n'], "file"))


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    found = list(read_lines(['{"recording": 1}\n', "\n", '{"vm": "a", "eve'], "file"))
    assert found == [(1, RecordingBegins())]


def test_a_verdict_is_shown_with_warnings_in_brackets() -> None:
    assert str(Said("refused", (("one", "enforce"), ("two", "warn")))) == "refused by one, (two)"
    assert str(Said("allowed")) == "allowed"
    assert json.loads(encode(write_line(LINES[9])))["said"]["rules"] == {"one": "enforce", "two": "warn"}
