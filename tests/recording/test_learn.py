"""The smallest policy that lets recorded work pass: it names each place, and with it nothing of it is refused."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING

import pytest

from qmpguard.cli import main
from qmpguard.errors import UsageError
from qmpguard.recording.learn import as_toml, learn
from qmpguard.recording.lines import GUARD, Exchange, Line, LinkUp, Members, QemuStarted, RecordingBegins, write_line
from qmpguard.wire.json import encode

if TYPE_CHECKING:
    from pathlib import Path

CHARDEV: Members = {"return": []}
SCHEMA: Members = {
    "return": [
        {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
        {"name": "migrate", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
        {"name": "0", "meta-type": "object", "members": []},
    ]
}


def texts(*lines: Line) -> list[str]:
    begin = (
        RecordingBegins(),
        QemuStarted("vm", ("qemu",)),
        LinkUp("vm", "11.1.3"),
        Exchange("vm", "query-qmp-schema", None, SCHEMA, GUARD),
        Exchange("vm", "query-chardev", None, CHARDEV, GUARD),
        Exchange("vm", "query-memdev", None, {"return": []}, GUARD),
    )
    return [encode(write_line(line)).decode() + "\n" for line in (*begin, *lines)]


def migrate(uri: str) -> Exchange:
    return Exchange("vm", "migrate", {"uri": uri}, {"return": {}}, 1)


def test_what_strict_would_refuse_is_named_with_its_place() -> None:
    lessons = learn([("file", texts(migrate("exec:cat"), *[migrate("exec:cat")] * 4))])
    text = as_toml(lessons)
    policy = tomllib.loads(text)["policy"]
    assert policy == {"profile": "strict", "rules": {"runs-program": "warn"}}
    assert "# migrate (file:7), migrate (file:8), migrate (file:9), and 2 more\nruns-program" in text


def test_what_harms_the_vm_stays_refused() -> None:
    device = QemuStarted("vm", ("qemu", "-device", "vfio-pci,id=gpu0"))
    on: Members = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
    text = as_toml(learn([("file", texts(device, Exchange("vm", "migrate-set-capabilities", on, {"return": {}}, 1)))]))
    assert tomllib.loads(text) == {"policy": {"profile": "strict"}}
    assert '# migrate-set-capabilities (file:8)\n#rules.vfio-postcopy = "warn"' in text


def test_what_passes_needs_no_exception() -> None:
    lessons = learn([("file", texts(migrate("tcp:a:1"), Exchange("vm", "query-status", None, {"return": {}}, 1)))])
    assert tomllib.loads(as_toml(lessons)) == {"policy": {"profile": "strict"}}
    assert lessons.judged == 1


def test_what_cannot_be_judged_is_counted() -> None:
    recording = (
        '{"recording": 1}\n',
        '{"vm": "a", "execute": "migrate", "arguments": {"uri": "u"}, "reply": {"return": {}}}\n',
    )
    assert "# Not judged: 1 commands, since the recording has no answer to " in as_toml(learn([("file", recording)]))


def test_an_audit_file_counts_with_the_rules_that_it_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"kind": "decision", "command": "migrate", "rule": "hmp-write", "others": [{"rule": "vfio-state-lost"}]}
    lines = [found, {"kind": "decision", "command": "stop", "rule": "observer"}, {"kind": "override"}]
    (tmp_path / "a").write_text("".join(json.dumps(line) + "\n" for line in lines) + "\n")
    assert main(["learn", str(tmp_path / "a")]) == 1
    said = capsys.readouterr().out
    assert tomllib.loads(said)["policy"]["rules"] == {"hmp-write": "warn"}
    assert "a socket of operators" in said


@pytest.mark.parametrize("text", ["nonsense", "{}", "[]", "5"])
def test_a_file_of_no_kind_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="file:1: this is neither a recording nor an audit file"):
        learn([("file", [text + "\n"])])


@pytest.mark.parametrize(
    "command", ['x\n[policy]\nmode = "off"\n#', "x\r\nmode = 1", "\u2028x", "\x1b[2J", "y" * 10_000]
)
def test_a_command_that_a_client_has_made_up_writes_no_line_of_the_policy(command: str) -> None:
    audit = json.dumps({"kind": "decision", "rule": "unknown-command", "command": command}) + "\n"
    made_up = Exchange("vm", command, None, {"return": {}}, 1)
    for text in (as_toml(learn([("a\nb", [audit])])), as_toml(learn([("file", texts(made_up))]))):
        assert tomllib.loads(text) == {"policy": {"profile": "strict", "rules": {"unknown-command": "warn"}}}
        assert all(line.isprintable() and len(line) < 400 for line in text.split("\n"))


@pytest.mark.parametrize("others", [5, None, [5, None, {"rule": 5}], {"rule": "x"}])
def test_odd_members_of_an_audit_file_are_passed_over(others: object) -> None:
    line = json.dumps({"kind": "decision", "rule": "hmp-write", "command": "x", "others": others})
    assert set(learn([("audit", [line])]).hits) == {"hmp-write"}
