"""`run --takeover`: the guard in the place of a real QEMU's socket, and everything that may happen to either."""

from __future__ import annotations

import asyncio
import signal
import stat
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from tests.support.guarding import TIMEOUT, connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.qemu

MODE = 0o664


@asynccontextmanager
async def guard_at(path: Path) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A guard as a process that stands in the place of a QEMU's socket."""
    process = await start(path)
    await says(process, " ready: ")
    try:
        yield process
    finally:
        assert process.stderr is not None
        if process.returncode is None:
            process.terminate()
        rest = await process.stderr.read()
        await process.wait()
        assert b"Traceback" not in rest


async def start(path: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-m", "qmpguard", "run"),
        *("--takeover", str(path), "--profile", "strict"),
        stderr=asyncio.subprocess.PIPE,
    )


async def says(process: asyncio.subprocess.Process, text: str) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT):
        while text not in (line := (await process.stderr.readline()).decode()):
            assert line, f"it ended before it said {text!r}"


async def is_guarded(path: Path) -> bool:
    """Whether what answers at a path is the guard: in profile strict it refuses what QEMU does not mind."""
    async with connected(path) as qmp:
        reply = await qmp.ask("human-monitor-command", {"command-line": "log none"})
        return "qmpguard: rule hmp-write" in reply["return"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def left_over(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.glob(path.name + ".*"))


async def test_the_guard_takes_the_place_of_qemu_and_gives_it_back(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu:
        (path,) = qemu.monitors
        path.chmod(MODE)
        inode = path.stat().st_ino
        async with guard_at(path):
            assert await is_guarded(path)
            assert mode(path) == MODE
            moved = path.with_name(path.name + ".guard") / "qemu"
            assert (mode(moved), moved.stat().st_ino, mode(moved.parent)) == (MODE, inode, 0o700)
        assert (mode(path), path.stat().st_ino) == (MODE, inode)
        assert left_over(path) == []
        assert not await is_guarded(path)


async def test_a_killed_guards_place_is_taken_by_the_next_one_and_given_back_as_it_was(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu:
        (path,) = qemu.monitors
        path.chmod(MODE)
        inode = path.stat().st_ino
        for _ in range(2):
            async with guard_at(path) as process:
                assert await is_guarded(path)
                process.kill()
                await process.wait()
            assert left_over(path) == ["qmp0.sock.guard", "qmp0.sock.qemu.lock"]
        async with guard_at(path):
            assert await is_guarded(path)
        assert (mode(path), path.stat().st_ino) == (MODE, inode)
        assert left_over(path) == []
        assert not await is_guarded(path)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_the_place_of_a_qemu_that_is_started_anew_is_taken_again(tmp_path: Path, end: signal.Signals) -> None:
    """Ended by SIGTERM a QEMU removes the socket at its path, which is the guard's; killed it leaves it there.

    In the first case the guard may take its place again before that QEMU has ended, and says so then, too.
    """
    async with Qemu(system_qemu(), tmp_path) as qemu:
        (path,) = qemu.monitors
        async with guard_at(path) as process:
            qemu.process.send_signal(end)
            await qemu.process.wait()
            async with Qemu(system_qemu(), tmp_path):
                await says(process, f"took the place of {path} again")
                async with asyncio.timeout(TIMEOUT):
                    while not await is_guarded(path):
                        pass
                assert (path.with_name(path.name + ".guard") / "qemu").is_socket()
                process.terminate()
                await process.wait()
                assert left_over(path) == []
                assert not await is_guarded(path)


async def test_a_qemu_that_was_started_anew_while_no_guard_was_there_is_not_taken_for_what_is_left(
    tmp_path: Path,
) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu:
        (path,) = qemu.monitors
        async with guard_at(path) as process:
            process.kill()
            await process.wait()
    async with Qemu(system_qemu(), tmp_path):
        inode = path.stat().st_ino
        async with guard_at(path):
            assert await is_guarded(path)
        assert path.stat().st_ino == inode
        assert not await is_guarded(path)
        assert left_over(path) == []


async def test_a_socket_that_somebody_has_removed_comes_back(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu:
        (path,) = qemu.monitors
        async with guard_at(path) as process:
            path.unlink()
            await says(process, f"took the place of {path} again")
            assert await is_guarded(path)
        assert not await is_guarded(path)


async def test_a_second_guard_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu:
        (path,) = qemu.monitors
        async with guard_at(path):
            await fails(path, "another guard has taken this socket over")
            assert await is_guarded(path)
        assert not await is_guarded(path)


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    await fails(path, "no such socket; QEMU must be started first")
    path.write_text("mine")
    await fails(path, "it is not a socket")
    assert path.read_text() == "mine"
    path.unlink()
    (tmp_path / "file.qemu").write_text("mine")
    await fails(path, f"{path}.qemu: it is not a socket")
    await fails(tmp_path / "no" / "dir", "No such file or directory")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["file.qemu"]


async def fails(path: Path, says: str) -> None:
    process = await start(path)
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT):
        text = (await process.stderr.read()).decode()
        assert await process.wait() == 69
    assert says in text
    assert "Traceback" not in text
