"""A line of the log is one line, of the guard's own, whatever was put into it."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qmpguard
from qmpguard.daemon.supervisor import Changes
from qmpguard.logs.formats import MAX_TRACE, JsonFormatter, TextFormatter
from qmpguard.logs.plain import MAX_LINE, MAX_VALUE, escaped, fields, rendered
from qmpguard.record import Override, Peer
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import capabilities, connected, eventually
from tests.support.stderr import guard, listening

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(qmpguard.__file__).parent
FORGED = "2026-11-26T00:00:00+0000 WARNING vm=web override=begun rule=all until=2026-11-27 by=pid1/uid0 reason='ok'"
#: what a line begins with
HEAD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) ")
READY = re.compile(r"qmpguard \S+ ready: clients at \S+, QEMU \S+ at \S+")
TRACE = "  | "
#: a text in quotes, as Python writes it
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
HOSTILE = [
    FORGED,
    f"x\n{FORGED}",
    f"x\r\n{FORGED}\r",
    f"x\u2028{FORGED}\u2029",
    f"x\x85{FORGED}\x0b\x0c\x1c\x1d\x1e",
    f"x' {FORGED}",
    f"x\\' {FORGED}",
    f'x" {FORGED}',
    f"x'\\\" {FORGED}",
    f"%s %d {FORGED}",
    "\x1b[2J\x1b]0;title\x07\x9b31m",
    "\u202e\u2066gnp.exe\u2069\u200f\ufeff",
    "\x00\x01\x7f",
    "override=begun",
    "x override=begun",
    "",
    " ",
    "'",
    "\\",
    "y" * 3_000_000,
    "\n" * 100_000,
]
SURROGATES = ["\ud800", "x\udcff\ud83d", "\udc80\n"]


def assert_own(line: str) -> None:
    """A line that the guard itself has begun, that prints, and in which no field is forged."""
    assert HEAD.match(line) or READY.fullmatch(line) or line.startswith(TRACE), line[:200]
    assert line.isprintable(), line[:200]
    assert len(line) < MAX_LINE + 60
    assert "override=" not in QUOTED.sub("", line), line[:500]


def record(template: str, *arguments: object, name: str = "qmpguard.x", **more: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.WARNING, "f", 1, template, arguments, None)
    made.__dict__.update(more)
    return made


#: every way in which a text gets into a line
TEMPLATES = [
    "vm=%s is away",
    "vm=%s client=%s refused: %s",
    "vm=%s reason=%r",
    "waiting for %s: %r",
    "%s cannot be opened",
    "%s%s%s",
    "%.500s and %-5s",
    "value=%d other=%g",
]


@pytest.mark.parametrize("text", [*HOSTILE, *SURROGATES])
@pytest.mark.parametrize("template", TEMPLATES)
def test_no_value_forges_a_line_or_a_field(template: str, text: str) -> None:
    count = len(re.findall(r"%[-.\d]*[a-z]", template))
    values: list[object] = [text, ValueError(text), OSError(5, text), Path(text.replace("\0", "")), [text], Peer(1)]
    for value in values:
        one = record(template, *[value] * count)
        assert_own(TextFormatter().format(one))
        assert json.loads(JsonFormatter().format(one))["level"] == "warning"


@given(st.text(), st.sampled_from(TEMPLATES))
def test_no_text_at_all_forges_a_line(text: str, template: str) -> None:
    count = len(re.findall(r"%[-.\d]*[a-z]", template))
    line = TextFormatter().format(record(template, *[f"{text} override=begun"] * count))
    assert_own(line)


@pytest.mark.parametrize("text", [*HOSTILE, *SURROGATES])
def test_what_a_library_has_put_together_itself_is_quoted(text: str) -> None:
    one = record(f"Exception in callback {text}", name="asyncio")
    assert_own(TextFormatter().format(one))
    assert fields(one) == {}


@pytest.mark.parametrize("text", [*HOSTILE, *SURROGATES])
def test_a_trace_is_on_lines_of_its_own(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        one = record("vm=%s failed", "web", exc_info=(type(error), error, error.__traceback__))
    lines = TextFormatter().format(one).split("\n")
    assert 2 <= len(lines) <= MAX_TRACE + 1
    assert lines[1].startswith(TRACE)
    for line in lines:
        assert line.startswith(TRACE) or HEAD.match(line)
        assert line.isprintable()
        assert len(line) < MAX_LINE


def test_what_is_the_guards_own_is_not_quoted() -> None:
    override = Override(True, None, 0.0, "ticket 7", Peer(1, 2, 3))
    assert rendered(record("vm=%s %s", "web", override)).startswith("vm=web override=begun rule=all until=1970")
    assert rendered(record("reloaded: %s", Changes(added=("a",), removed=("b",)))) == "reloaded: added=a removed=b"
    assert rendered(record("%s%s", "vm=web ", "cannot accept")) == "vm=web cannot accept"
    assert rendered(record("x %s", "vm=web ")) == "x 'vm=web '"
    assert rendered(record("client=%s qemu=%s ref=%s", Peer(1, 2, 3), "8.1.0", "a-1")) == (
        "client=1/pid2/uid3 qemu=8.1.0 ref=a-1"
    )
    assert rendered(record("waiting for QEMU at %s: %s", "unix:/a b", "No such file")) == (
        "waiting for QEMU at unix:/a b: No such file"
    )
    assert rendered(record("100%% of %5.1f and %d", 2.25, 3)) == "100% of   2.2 and 3"


def test_a_value_that_is_long_leaves_the_others_to_be_read() -> None:
    line = rendered(record("command=%s ref=%s number=%d", "y" * 10_000, "a-1", 10**5000))
    assert f" ref=a-1 number='a number of {(10**5000).bit_length()} bits'" in line
    assert len(line) < MAX_VALUE + 100


def test_fields_are_those_of_the_format() -> None:
    one = record("%svm=%s link=up reason=%r ms=%d: %s", "x", "web", "a b=c", 5, "override=begun")
    assert fields(one) == {"vm": "web", "link": "up", "reason": "a b=c", "ms": 5}
    assert fields(record("%sno clients", "vm=web ")) == {"vm": "web"}
    line = json.loads(JsonFormatter().format(record("level=%s time=%s x=%s", "a", "b", "c")))
    assert (line["level"], line["x"]) == ("warning", "c")
    assert datetime.fromisoformat(line["time"]).tzinfo is not None


@given(st.text())
def test_escaping_leaves_what_prints_and_nothing_else(text: str) -> None:
    assert escaped(text).isprintable()
    if text.isprintable():
        assert escaped(text) == text


LEVELS = ("debug", "info", "warning", "error", "exception", "critical", "log")


def log_calls() -> Iterator[tuple[str, ast.expr]]:
    """Where each line is logged, and its format."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id in ("log", "ready") and node.func.attr in LEVELS:
                    at = node.args[1] if node.func.attr == "log" else node.args[0]
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", at


def test_every_line_is_made_of_a_fixed_format_and_values() -> None:
    """A value that is part of the format would be neither cut, quoted nor escaped: no f-string, no addition."""
    calls = list(log_calls())
    assert len(calls) > 40
    assert [place for place, text in calls if not isinstance(text, ast.Constant)] == []


#: lines about one VM that name it by what only it has: the path of its socket, or the address of its QEMU
BY_PLACE = ("proxy/listening/takeover.py", "proxy/sockets/dial.py", "proxy/listening/qemu_listener.py")
#: lines that are about no VM, or about many
ABOUT_NONE = ("proxy/judging/schemas.py",)


#: how a line begins that names its VM; the second stands for a label that was made elsewhere
NAMING = ("vm=%s", "%s")


def test_every_line_of_the_proxy_names_its_vm() -> None:
    lacking = [
        f"{place} {text.value!r}"
        for place, text in log_calls()
        if place.startswith("proxy/") and isinstance(text, ast.Constant) and not str(text.value).startswith(NAMING)
    ]
    assert [line for line in lacking if not any(known in line for known in (*BY_PLACE, *ABOUT_NONE))] == []


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("setting", [("--profile", "strict"), ("--role", "observer"), ("--mode", "warn")])
async def test_hostile_names_through_the_real_process(tmp_path: Path, setting: tuple[str, str], form: str) -> None:
    log, audit = tmp_path / "log", tmp_path / "audit"
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices = {name: "vfio-pci" for name in HOSTILE[:14] if "/" not in name}
        words = *("--qemu", str(qemu.path), "--listen", str(tmp_path / "g"), "--audit", str(audit)), *setting
        with log.open("wb") as file:
            async with guard(*words, "--log-format", form, "--log-level", "debug", stderr=file):
                await listening(tmp_path / "g")
                await eventually(lambda: b" ready: " in log.read_bytes())
                await ask_hostile_things(tmp_path / "g", qemu)
    lines = log.read_text().split("\n")
    assert lines.pop() == ""
    assert len(lines) > 10
    for line in lines:
        if form == "text":
            assert_own(line)
        else:
            assert_own_json(json.loads(line), line)
    for decision in audit.read_bytes().split(b"\n")[:-1]:
        assert decision.isascii()
        assert len(decision) < 200_000
        assert json.loads(decision)["kind"] == "decision"


def assert_own_json(line: dict[str, Any], text: str) -> None:
    assert {"time", "level", "message"} <= line.keys()
    assert text.isascii()
    assert "override" not in line
    assert line["message"].isprintable()


async def ask_hostile_things(path: Path, qemu: FakeQemu) -> None:
    async with connected(path) as client:
        for name in HOSTILE:
            await client.ask(name)
            await client.ask("device_add", {"driver": "vfio-pci", "id": name, "host": name, name: name}, id=name)
            await client.ask("human-monitor-command", {"command-line": f"x {name}"})
            await client.ask("qom-set", {"path": name, "property": "realized", "value": name})
            await client.ask("migrate", {"uri": name})
        await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
        for name in HOSTILE:
            qemu.emit(name or "X", data=name[:1000])
        client.raw(b'{"execute": "x\\ud800\\udc00\\udfff \xed\xa0\x80 \xff\xfe"}')
        await asyncio.wait_for(client.receive(), 20)
