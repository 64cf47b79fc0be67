"""The command line: whatever is typed and wherever the output goes, an error is one line and never a traceback."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import TYPE_CHECKING

import pytest

from qmpguard.cli import COMMANDS, main
from qmpguard.remote import consoles
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, assert_refused, capabilities, connected, guarding
from tests.support.visiting import visiting

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = json.dumps({"capabilities": [], "devices": [], "standbys": [], "runstate": "running"})
QUERY = '{"execute":"query-status"}'

#: words that print and need no guard; MACHINE, CONFIG, FOLDER, GUARD and ADMIN stand for places
PRINTING = [
    "--help",
    "run --help",
    "--version",
    "rules",
    "rules --json",
    "rules --markdown",
    f"explain --machine MACHINE {QUERY}",
    "config show --qemu /a --listen /b",
    "config check CONFIG",
]
#: words that need one
ASKING = [
    "check GUARD",
    "check GUARD --json",
    f"explain --machine GUARD {QUERY}",
    "status ADMIN",
    "status ADMIN --json",
]
#: how a shell redirects the streams; the exit code (None: that of the command) and what is said on standard error
FULL = "qmpguard: cannot write to standard output: No space left on device\n"
OUTPUTS: dict[str, tuple[str, int | None, str]] = {
    "full": (">/dev/full", 74, FULL),
    "closed": (">&-", None, ""),
    "a pipe that nobody reads": (">&PIPE", 141, ""),
    "full, errors closed": (">/dev/full 2>&-", 74, ""),
    "full, errors too": (">/dev/full 2>/dev/full", 74, ""),
    "all closed": ("<&- >&- 2>&-", None, ""),
}


def places(folder: Path) -> dict[str, str]:
    (folder / "machine").write_text(MACHINE)
    (folder / "config").write_text('[[vm]]\nname = "a"\nqemu = "/a"\nlisten = "/b"\n')
    return {
        **{name: str(folder / name.lower()) for name in ("MACHINE", "CONFIG")},
        "TOGETHER": json.dumps({"execute": "migrate-set-capabilities", "arguments": capabilities(postcopy_ram=True)}),
        "GUARD": str(folder / "guard.sock"),
        "ADMIN": str(folder / "admin.sock"),
        "FOLDER": str(folder),
    }


async def shell(folder: Path, words: str, redirection: str) -> tuple[int, str]:
    """Run words and return the exit code, and what was said on standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    where = places(folder)
    try:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f'exec "$@" {redirection.replace("PIPE", str(writing))}', "bash"),
            *(sys.executable, "-m", "qmpguard", *(where.get(word, word) for word in words.split())),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[writing],
        )
    finally:
        os.close(writing)
    async with asyncio.timeout(TIMEOUT):
        _, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("words", PRINTING)
async def test_an_output_that_takes_nothing_costs_one_line_at_most(tmp_path: Path, words: str, output: str) -> None:
    redirection, code, said = OUTPUTS[output]
    assert await shell(tmp_path, words, redirection) == (code or 0, said)


async def test_so_it_is_with_commands_that_ask_a_guard(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard):
        for words in ASKING:
            for redirection, code, said in OUTPUTS.values():
                assert await shell(tmp_path, words, redirection) == (code or 0, said), (words, redirection)


async def test_a_tail_into_nothing_ends(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard):
        qemu.devices["gpu0"] = "vfio-pci"
        async with connected(tmp_path / "guard.sock") as qmp:
            assert_refused(await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=True)), "vfio-postcopy")
        assert await shell(tmp_path, "tail ADMIN --since 0", ">/dev/full") == (74, FULL)
        assert await shell(tmp_path, "tail ADMIN --since 0", ">&PIPE") == (141, "")


async def test_a_closed_stream_gives_its_number_to_no_socket(tmp_path: Path) -> None:
    """What is printed would go to whoever is connected."""
    script = "import os; from qmpguard.cli import provide_streams as p; p(); print('x', flush=True); print(os.dup(0))"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", script + "; assert os.dup(0) > 2"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert said == b""
    assert process.returncode == 0


async def test_what_an_output_has_no_letters_for_is_spelled(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmpguard", "config", "check", f"{tmp_path}/\u00e9"),
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 78
    assert said.count(b"\n") == 1
    assert b"\\xe9" in said


#: what people type by mistake; each gets an exit code of its own kind and a line or two
WRONG = [
    # no command, or none that there is
    "", "nonsense", "-x", "check", "explain", "config", "config nonsense", "config check", "run --nonsense",
    # addresses
    "check /nowhere/at/all", "check tcp:", "check tcp:localhost", "check tcp:localhost:0", "check tcp:localhost:99999",
    "check tcp:localhost:x", "check fd:", "check fd:99", "check fd:-1", "check fd:99999999999999999999", "check unix:",
    "check FOLDER", "check CONFIG", "check http://localhost/", "check tcp:..:1", "check tcp:[:1", "check " + "/x" * 60,
    "check \udcff", "check tcp:" + "a" * 300 + ":1",
    # explain
    "explain --machine /nowhere TOGETHER", "explain --machine FOLDER TOGETHER", "explain --machine CONFIG TOGETHER",
    "explain --machine MACHINE {", "explain --machine MACHINE nonsense", "explain --machine MACHINE []",
    "explain --machine MACHINE {}", 'explain --machine MACHINE {"execute":5}', "explain --machine MACHINE \udcff",
    "explain --machine MACHINE " + "[" * 5000, "explain --machine MACHINE", f"explain --profile nonsense {QUERY}",
    # recordings and simulations
    "replay", "replay /nowhere", "replay FOLDER", "replay CONFIG", "replay MACHINE --against", "replay \udcff",
    "replay MACHINE --against /nowhere", "replay MACHINE --rules x=y", "simulate", "simulate /nowhere/at/all",
    "simulate tcp:", "simulate fd:3", "simulate FOLDER", "simulate /nowhere/at/all MACHINE", "simulate /a FOLDER",
    "learn", "learn /nowhere", "learn FOLDER", "learn CONFIG", "learn MACHINE",
    # override
    "override --rule", "override --rule nonsense", "override --for 1h", "override --rule vfio-postcopy --for 1h",
    "override --all-rules --for x --reason x", "override --all-rules --rule x", "override --pid x", "override --pid -1",
    "override --pid 999999999", "override --end", "override --all-rules --end --for 1h",
    # those that visit the admin interface
    "status", "status /nowhere", "status CONFIG", "status FOLDER", "status fd:0", "status tcp:localhost:1",
    "status GUARD --token-file /nowhere", "status tcp:localhost:1 --token-file FOLDER", "status tcp:a\udcff:1",
    "tail", "tail /nowhere", "tail /nowhere --since", "healthcheck", "healthcheck /nowhere",
    "healthcheck --ready CONFIG",
    # configurations
    "config check /nowhere", "config check FOLDER", "config check MACHINE", "config check /dev/null",
    "config show", "config show --qemu /a", "config show --listen /b", "config show --qemu /a --listen /a",
    "config show --mode nonsense --qemu /a --listen /b",
    "config show --rules nonsense=off --qemu /a --listen /b", "config show --rules vfio-postcopy --qemu /a --listen /b",
    "config show --socket-mode 9 --qemu /a --listen /b", "config show --survey-timeout x --qemu /a --listen /b",
    "config show --max-clients -1 --qemu /a --listen /b", "config show --allow-users nobody-such --qemu /a --listen /b",
    "config show --config /nowhere", "config show --config CONFIG --qemu /a", "config show --otel perhaps --qemu /a",
]  # fmt: skip

#: likewise for what goes on until it is told to end
RUNNING = [
    "run", "run --qemu", "run --qemu /a", "run --config /nowhere", "run --config FOLDER", "run --config MACHINE",
    "run --takeover /a --listen /b", "run --qemu fd:99 --listen fd:98", "run --qemu /a --listen FOLDER",
    "run --qemu /a --listen /nowhere/at/all", "run --qemu /a --listen FOLDER/s --admin tcp:localhost:1",
    "run --qemu /a --listen tcp:localhost:99999", "run --qemu /a --listen FOLDER/s --audit FOLDER",
    "record", "record /a", "record /a FOLDER", "record tcp: FOLDER/f",
    "record /a FOLDER/f --listen /nowhere/at/all",
    "run --takeover /nowhere", "run --takeover CONFIG", "exec", "exec --listen /a", "exec -- true",
]  # fmt: skip


@pytest.mark.parametrize("words", WRONG, ids=[f"{number}" for number in range(len(WRONG))])
async def test_what_is_typed_by_mistake_is_told_in_a_few_lines(
    tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_process = consoles._paths  # of all processes: other tests' guards may run meanwhile
    monkeypatch.setattr(consoles, "_paths", lambda pid: iter(()) if pid is None else of_process(pid))
    where = places(tmp_path)
    typed = [where.get(word, word.replace("FOLDER/", f"{tmp_path}/")) for word in words.split()]

    def run() -> int | str | None:
        try:
            return main(typed)
        except SystemExit as end:
            return end.code

    async with asyncio.timeout(TIMEOUT):
        code = await asyncio.to_thread(run)
    out, said = capsys.readouterr()
    assert not out
    assert_told(words, code, said)


@pytest.mark.parametrize("words", RUNNING)
async def test_so_it_is_with_what_would_run_until_it_is_told_to_end(tmp_path: Path, words: str) -> None:
    assert_told(words, *await shell(tmp_path, words.replace("FOLDER/", f"{tmp_path}/"), ""))


def assert_told(words: str, code: int | str | None, said: str) -> None:
    assert code in (2, 69, 78), (words, said)
    assert "Traceback" not in said
    told = [line for line in said.splitlines() if not line.startswith(("usage:", " "))]
    assert len(told) == 1, (words, said)


def test_an_error_of_our_own_is_one_line_and_where_it_was_is_told_who_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise ValueError("two\nlines")

    monkeypatch.setattr("qmpguard.commands.rules.execute", fail)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # this is no guard
    assert main(["rules"]) == 70
    assert capsys.readouterr().err == "qmpguard: internal error, please report it: ValueError: two lines\n"
    monkeypatch.setenv("QMPGUARD_TRACE", "1")
    assert main(["rules"]) == 70
    assert "test_cli.py" in capsys.readouterr().err


def test_every_command_is_tried() -> None:
    tried = {words.split()[0] for words in (*WRONG, *RUNNING, *ASKING, *PRINTING) if words}
    assert tried >= {*COMMANDS} - {"demo"}  # it has no options; tests/demo
