"""`exec`: a real QEMU as the guard's child, whose only monitor is the guard's."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.guarding import TIMEOUT, connected, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

QEMU = ("qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-M", "none")


async def start(tmp_path: Path, *options: str, command: tuple[str, ...] = QEMU) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-m", "qmpguard", "exec"),
        *("--listen", str(tmp_path / "guard.sock"), *options, "--", *command),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "QMPGUARD_QEMU": "/of/no/concern", "QMPGUARD_CONFIG": "/neither"},
    )


@asynccontextmanager
async def running(
    tmp_path: Path, *options: str, command: tuple[str, ...] = QEMU
) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await start(tmp_path, *options, command=command)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            while b" ready: " not in (line := await process.stderr.readline()):
                assert line, "it ended before it was ready"
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        rest = await process.stderr.read()
        await process.wait()
        assert b"Traceback" not in rest
        assert not (tmp_path / "guard.sock").exists()


def qemu_of(process: asyncio.subprocess.Process) -> int:
    (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(pid)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(TIMEOUT):
        return await process.wait()


async def said_by(process: asyncio.subprocess.Process) -> tuple[int, str]:
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT):
        said = (await process.stderr.read()).decode()
        assert "Traceback" not in said
        assert "Exception" not in said
        return await process.wait(), said


@pytest.mark.qemu
async def test_qemu_has_no_other_monitor_and_ends_with_its_own_status(tmp_path: Path) -> None:
    async with running(tmp_path) as process, connected(tmp_path / "guard.sock") as qmp:
        chardevs = (await qmp.ask("query-chardev"))["return"]
        assert [chardev["label"] for chardev in chardevs] == ["qmpguard"]
        qmp.send({"execute": "quit"})
        assert await ended(process) == 0


@pytest.mark.qemu
async def test_a_signal_is_qemus(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        async with running(tmp_path) as process:
            pid = qemu_of(process)
            process.send_signal(number)
            assert await ended(process) == 0
            assert not is_alive(pid)


@pytest.mark.qemu
async def test_the_signal_that_ended_qemu_is_told_as_shells_do(tmp_path: Path) -> None:
    async with running(tmp_path) as process:
        os.kill(qemu_of(process), signal.SIGKILL)
        assert await ended(process) == 128 + signal.SIGKILL


@pytest.mark.qemu
async def test_a_guard_that_is_killed_leaves_qemu_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as process:
        pid = qemu_of(process)
        process.kill()
        await eventually(lambda: not is_alive(process.pid))  # wait() would wait for QEMU, which has its stderr
        assert is_alive(pid)
        os.kill(pid, signal.SIGKILL)
        (tmp_path / "guard.sock").unlink()


@pytest.mark.qemu
async def test_a_qemu_that_refuses_its_command_line_is_told_by_its_status(tmp_path: Path) -> None:
    status, said = await said_by(await start(tmp_path, command=(*QEMU, "-nonsense")))
    assert status == 1
    assert "-nonsense: invalid option" in said


@pytest.mark.parametrize(
    ("options", "command", "says"),
    [
        ((), (), "exec needs QEMU's command line, behind --"),
        ((), ("qemu", "-daemonize"), "-daemonize: the guard would end when QEMU leaves its process; leave it out"),
        (("--log-file", "x"), ("qemu",), "--log-file is for --keep-pid"),
        ((), ("/no/such/qemu",), "cannot run /no/such/qemu: No such file or directory"),
        ((), ("qemu", "-qmp", "stdio"), "-qmp stdio would open a way around the guard (rule new-monitor)"),
        (
            ("--rules", "new-monitor=warn"),
            ("/no/such/qemu", "-qmp", "stdio"),
            "-qmp stdio opens a way around the guard",
        ),
        ((), ("qemu", "-gdb", "tcp::1"), "-gdb tcp::1 would open a way around the guard (rule new-monitor)"),
        ((), ("/no/such/qemu", "-readconfig", "x"), "-readconfig x may open a way around the guard"),
    ],
)
async def test_what_is_wrong_is_said_before_qemu_runs(
    tmp_path: Path, options: tuple[str, ...], command: tuple[str, ...], says: str
) -> None:
    status, said = await said_by(await start(tmp_path, *options, command=command))
    assert status == 2
    assert says in said
    assert not (tmp_path / "guard.sock").exists()
