"""A takeover that is killed before any of its system calls: the next guard gives everything back as it was."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpguard.proxy.listening import takeover as module
from qmpguard.proxy.listening.takeover import Takeover, take_over
from tests.support.guarding import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

MODE = 0o660
#: Takes QEMU's place at a path and gives it back, in a process that dies at its N-th file operation; ends with 0 where
#: there is no N-th. An audit hook is called before the operation.
DIES = """
import asyncio, os, sys
from qmpguard.proxy.listening.takeover import take_over
path, left = sys.argv[1], int(sys.argv[2])
FILES = ("open", "os.", "socket.", "fcntl.", "pathlib.")

def hook(event, arguments):
    global left
    if event.startswith(FILES) and armed:
        left -= 1
        if left < 0:
            os._exit(9)

async def run():
    global armed
    armed = True
    listener = take_over(path, lambda *_: None)
    listener.close()
    armed = False

armed = False
sys.addaudithook(hook)
asyncio.run(run())
"""


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[socket.socket]:
    """A QEMU's socket at ``q``, of another group where we may give it one."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "q"))
        sock.listen(1)
        os.chown(tmp_path / "q", -1, 12345 if os.geteuid() == 0 else os.getegid())
        (tmp_path / "q").chmod(MODE)
        yield sock


def seen(path: Path) -> tuple[int, int, int, int]:
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_ino


async def take_and_leave(path: Path) -> tuple[int, int, int]:
    """What the guard's socket looks like in between."""
    listener = take_over(str(path), lambda *_: None)
    between = seen(path)
    assert seen(path.with_name("q.guard"))[0] == 0o700
    assert (path.with_name("q.guard") / "qemu").is_socket()
    listener.close()
    return between[:3]


def dies_at(path: Path, moment: int) -> int:
    done = subprocess.run([sys.executable, "-c", DIES, str(path), str(moment)], check=False)
    assert done.returncode in (0, 9)
    return done.returncode


@pytest.mark.parametrize("before", [[], [5]])
async def test_killed_at_any_moment_the_next_guard_gives_back_what_was_there(
    before: list[int], tmp_path: Path, qemu: socket.socket
) -> None:
    """``before``: guards that were killed there already, one after the other."""
    path, moment = tmp_path / "q", 0
    there = seen(path)
    while True:
        code = [dies_at(path, number) for number in (*before, moment)][-1]
        assert await take_and_leave(path) == there[:3]
        assert seen(path) == there
        assert [found.name for found in tmp_path.iterdir()] == ["q"]
        if code == 0:
            break
        moment += 1
    # only root gives the socket the owner of QEMU's; and a guard after a killed one finds some of it done
    assert moment > (10 if os.geteuid() == 0 else 8), "the hook did not see the file operations"
    assert qemu.fileno() >= 0


@pytest.mark.parametrize("note", ["", "660", "x y z 1 2", "777 0 0 1 2", " " * 200, "\0" * 10])
async def test_a_lock_that_cannot_be_read_is_as_good_as_none(note: str, tmp_path: Path, qemu: socket.socket) -> None:
    path = tmp_path / "q"
    there = seen(path)
    path.rename(tmp_path / "q.qemu")
    (tmp_path / "q.qemu.lock").write_text(note)
    assert await take_and_leave(path) == there[:3]
    assert seen(path) == there


async def test_a_note_that_another_user_could_have_written_is_not_believed(tmp_path: Path, qemu: socket.socket) -> None:
    path, lock = tmp_path / "q", tmp_path / "q.qemu.lock"
    status = path.lstat()
    path.chmod(0o600)
    there = seen(path)
    lock.write_text(f"777 0 0 {status.st_dev} {status.st_ino}")
    lock.chmod(0o666)
    path.rename(tmp_path / "q.qemu")
    await take_and_leave(path)
    assert seen(path) == there


@pytest.mark.parametrize("error", [ValueError("odd"), OSError(5, "I/O"), MemoryError()])
async def test_whatever_fails_while_the_place_is_kept_it_is_tried_again(
    error: Exception,
    tmp_path: Path,
    qemu: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "CHECK_WHILE_LINKED", 0.001)
    path, tries, again = tmp_path / "q", 0, Takeover._retake

    def sometimes(*arguments: object, **options: object) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise error
        again(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Takeover, "_retake", sometimes)
    listener, linked = take_over(str(path), lambda *_: None), asyncio.Event()
    linked.set()
    async with asyncio.TaskGroup() as tasks:
        assert listener.path_keeper is not None
        task = tasks.create_task(listener.path_keeper.keep(listener, linked))
        path.unlink()
        await eventually(lambda: listener.has_socket_file)
        task.cancel()
    assert sum("was replaced" in record.getMessage() for record in caplog.records) == 1
    listener.close()
