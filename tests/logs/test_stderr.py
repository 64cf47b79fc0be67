"""Standard error in every state that it can be in: the guard serves and ends, and says what it could not say."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qmpguard.logs import stderr
from qmpguard.logs.lines import LineWriter
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, connected, eventually
from tests.support.stderr import guard, listening

#: bytes that a pipe holds here: the least that Linux gives (pipe(7))
PIPE = 4096
LOST = re.compile(rb"the log has lost lines=(\d+) here")


def narrow_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE)
    return reader, writer


async def converse(path: Path, clients: int) -> None:
    """Have clients served one after the other; each is worth two lines of the log."""
    for _ in range(clients):
        async with connected(path) as client:
            assert "return" in await client.ask("query-status")


async def test_a_pipe_that_nobody_reads_holds_up_neither_clients_nor_the_end(tmp_path: Path) -> None:
    reader, writer = narrow_pipe()
    async with FakeQemu(tmp_path / "q") as qemu:
        places = "--qemu", str(qemu.path), "--listen", str(tmp_path / "g")
        async with guard(*places, stderr=writer) as process:
            os.close(writer)
            await listening(tmp_path / "g")
            await converse(tmp_path / "g", 100)
            assert "pipe" in str(Path(f"/proc/{process.pid}/fd/2").readlink())
    os.close(reader)


async def read_to_end(reader: int) -> bytes:
    """Read a pipe to its end, in a thread."""
    with os.fdopen(reader, "rb") as file:
        async with asyncio.timeout(TIMEOUT):
            return await asyncio.to_thread(file.read)


async def test_the_log_says_how_many_lines_it_lacks_when_it_is_read_again(tmp_path: Path) -> None:
    code = f"""
import logging, sys, time
from qmpguard.config import LogConfig
from qmpguard.logs import stderr
stderr.MAX_WAITING = 10
stderr.log_to_stderr(LogConfig())
log = logging.getLogger("qmpguard.x")
for number in range(3000):
    log.info("number=%d {"x" * 50}", number)
print("lost", stderr.stderr_log().lost, flush=True)
sys.stdin.readline()
while stderr.stderr_log()._queue._waiting:
    time.sleep(0.01)
log.info("the last")
"""
    reader, writer = narrow_pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writer
    )
    os.close(writer)
    assert process.stdout is not None
    assert process.stdin is not None
    lost = int((await process.stdout.readline()).split()[1])
    process.stdin.write(b"\n")
    text = await read_to_end(reader)
    assert await process.wait() == 0
    lines = text.splitlines()
    told = sum(int(found[1]) for found in LOST.finditer(text))
    assert len([line for line in lines if b" number=" in line]) + told == 3000
    assert told == lost
    assert lost > 2000
    assert lines[-1].endswith(b"the last")


@pytest.mark.parametrize("state", ["closed", "full", "reader gone", "reader gone later"])
async def test_whatever_standard_error_is_the_guard_serves_and_ends(tmp_path: Path, state: str) -> None:
    reader, writer = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    if state == "reader gone":
        os.close(reader)
    async with FakeQemu(tmp_path / "q") as qemu:
        places = "--qemu", str(qemu.path), "--listen", str(tmp_path / "g")
        number = full if state == "full" else writer
        async with guard(*places, stderr=number, stderr_is_closed=state == "closed") as process:
            os.close(writer)
            if state == "reader gone later":
                os.close(reader)
            await listening(tmp_path / "g")
            await converse(tmp_path / "g", 5)
            if state == "closed":
                assert str(Path(f"/proc/{process.pid}/fd/2").readlink()) == "/dev/null"
    names = {request.get("execute") or request["exec-oob"] for request in qemu.seen}
    assert all(re.fullmatch("qmp_capabilities|qom-list|query-[a-z-]+", name) for name in names), names
    os.close(full)
    if state in ("closed", "full"):
        os.close(reader)


async def test_a_start_that_fails_ends_though_nobody_reads_why(tmp_path: Path) -> None:
    reader, writer = narrow_pipe()
    os.write(writer, b"x" * PIPE)
    async with guard("--config", str(tmp_path / "none.toml"), stderr=writer, exit_code=78) as process:
        async with asyncio.timeout(TIMEOUT):
            await process.wait()
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize("state", ["closed", "full", "reader gone"])
def test_a_command_that_fails_has_its_exit_code_whatever_standard_error_is(tmp_path: Path, state: str) -> None:
    command = [sys.executable, "-m", "qmpguard", "run", "--config", str(tmp_path / "none.toml")]
    if state == "closed":
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stderr=full if state == "full" else writer, stdout=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stdout) == (78, b"")


async def test_with_json_every_line_is_json_and_the_ready_line_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with FakeQemu(tmp_path / "q") as qemu:
        places = "--qemu", str(qemu.path), "--listen", str(tmp_path / "g"), "--name", "web"
        with log.open("wb") as file:
            async with guard(*places, "--log-format", "json", stderr=file):
                await listening(tmp_path / "g")
                await eventually(lambda: b" ready: " in log.read_bytes())
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (ready,) = [line for line in lines if " ready: " in line["message"]]
    assert (ready["level"], ready["vm"], ready["listen"], ready["qemu"]) == (
        "info",
        "web",
        f"unix:{tmp_path}/g",
        "8.1.0",
    )
    (link,) = [line for line in lines if line.get("link") == "up"]
    assert (link["vm"], link["qemu"]) == ("web", "8.1.0")
    (connected_line, *_) = [line for line in lines if line["message"].endswith("connected")]
    assert connected_line["client"].startswith("1/pid")


async def test_the_ready_line_is_said_at_any_level(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with FakeQemu(tmp_path / "q") as qemu:
        places = "--qemu", str(qemu.path), "--listen", str(tmp_path / "g"), "--log-level", "error"
        with log.open("wb") as file:
            async with guard(*places, stderr=file):
                await eventually(lambda: b" ready: " in log.read_bytes())
    assert re.fullmatch(r"qmpguard \S+ ready: clients at \S+, QEMU 8\.1\.0 at \S+\n", log.read_text())


def run(code: str) -> list[str]:
    """Run a program that logs, and return the lines of its standard error."""
    begin = "import logging, sys\nfrom qmpguard.config import LogConfig, LogFormat\n"
    begin += "from qmpguard.logs.stderr import log_to_stderr, stderr_log\nlog_to_stderr(LogConfig())\n"
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()


def test_what_python_prints_is_a_line_of_the_log() -> None:
    lines = run(
        "import warnings\nwarnings.warn('x\\x1by')\nprint('a\\nb\\n', end='', file=sys.stderr)\nraise ValueError('z')"
    )
    assert all(re.match(r"\d{4}-\d\d-\d\dT\S+ ERROR ", line) for line in lines), lines
    assert lines[-1].endswith("ValueError: z")
    assert any(r"x\x1by" in line for line in lines)


def test_the_last_lines_are_written_at_the_end() -> None:
    lines = run("for n in range(500): logging.error('n%d', n)")
    assert [line.split()[-1] for line in lines] == [f"n{number}" for number in range(500)]


def test_a_record_that_cannot_be_formatted_is_still_a_line() -> None:
    lines = run(
        "class Odd:\n def __str__(self): raise RuntimeError\n"
        "logging.error('a %s', Odd())\nlogging.error('%d %d', 1)\nlogging.error('b %s', 1, 2)\nlogging.error('c')"
    )
    errors = [line.partition("a line of the log cannot be written: ")[2].split(":")[0] for line in lines]
    assert errors == ["RuntimeError", "StopIteration", "TypeError", ""]


def test_another_format_or_level_holds_from_then_on() -> None:
    lines = run(
        "logging.info('one')\nfrom qmpguard.config import LogLevel\n"
        "log_to_stderr(LogConfig(format=LogFormat.JSON, level=LogLevel.WARNING))\n"
        "logging.info('two')\nlogging.warning('three')\nassert len(logging.getLogger().handlers) == 1"
    )
    assert len(lines) == 2
    assert lines[0].endswith(" INFO one")
    assert json.loads(lines[1])["message"] == "three"


def test_a_process_that_is_ended_at_once_has_its_last_lines_written_by_the_shutdown_of_logging() -> None:
    lines = run("import os\nfor n in range(500): logging.error('n%d', n)\nlogging.shutdown()\nos._exit(0)")
    assert [line.split()[-1] for line in lines] == [f"n{number}" for number in range(500)]


def test_a_second_end_has_what_the_first_has_left_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(LineWriter, "join", lambda _, seconds: waits.append(seconds))
    log = stderr.StderrLog()
    log.end()
    assert 0 < waits.pop() <= stderr.FLUSH_TIMEOUT
    log._until = time.monotonic()
    log.close()
    assert waits.pop() <= 0
