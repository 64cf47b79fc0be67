"""Taking the place of QEMU's socket and giving it back: owner, mode and file are as they were."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening import takeover as module
from qmpguard.proxy.listening.moved_socket import BESIDE_MODE, DIRECTORY_MODE
from qmpguard.proxy.listening.takeover import take_over
from tests.support.guarding import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpguard.proxy.listening.listener import Listener


def listening(path: Path, mode: int = 0o660) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1)
    path.chmod(mode)
    return sock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "q"


@pytest.fixture
def qemu(path: Path) -> Iterator[socket.socket]:
    """A QEMU's socket at the path."""
    with listening(path) as sock:
        yield sock


def seen(path: Path) -> tuple[int, int, int, int]:
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_ino


def names(path: Path) -> set[str]:
    return {found.name for found in path.parent.iterdir()}


def moved(path: Path) -> Path:
    return path.with_name(path.name + ".guard") / "qemu"


def taken(path: Path) -> Listener:
    return take_over(str(path), lambda sock, _: sock.close())


@pytest.mark.usefixtures("qemu")
async def test_the_place_is_taken_and_given_back(path: Path) -> None:
    before = seen(path)
    with closing(taken(path)):
        assert names(path) == {"q", "q.guard", "q.qemu.lock"}
        assert seen(path)[:3] == before[:3], "tools find a socket with QEMU's owner and mode"
        assert seen(path)[3] != before[3]
        assert seen(moved(path)) == before, "QEMU's socket is as it was"
        assert seen(path.with_name("q.guard"))[:2] == (DIRECTORY_MODE, os.geteuid())
    assert names(path) == {"q"}
    assert seen(path) == before


async def test_a_client_that_waits_at_qemu_is_not_disturbed(path: Path, qemu: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with closing(taken(path)):
            ours, _ = qemu.accept()
            with ours:
                client.sendall(b"hello")
                assert ours.recv(10) == b"hello"


async def test_without_a_socket_nothing_is_taken_and_nothing_left(path: Path) -> None:
    with pytest.raises(UnavailableError, match="no such socket; QEMU must be started first"):
        taken(path)
    assert names(path) == set()


async def test_what_is_no_socket_stays(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(UnavailableError, match="it is not a socket"):
        taken(path)
    assert (names(path), path.read_text()) == ({"q"}, "precious")


@pytest.mark.usefixtures("qemu")
async def test_two_guards_cannot_have_one_place(path: Path) -> None:
    with closing(taken(path)) as first:
        with pytest.raises(UnavailableError, match="another guard has taken this socket over"):
            taken(path)
        assert first.has_socket_file


@pytest.mark.usefixtures("qemu")
async def test_an_error_of_the_system_is_told_and_gives_the_place_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = seen(path)
    monkeypatch.setattr(module, "Listener", refuse)
    with pytest.raises(UnavailableError, match=r"cannot take over .*: Operation not permitted"):
        taken(path)
    assert (names(path), seen(path)) == ({"q"}, before)


@pytest.mark.usefixtures("qemu")
async def test_a_qemu_whose_socket_has_gone_is_not_put_back(path: Path) -> None:
    listener = taken(path)
    moved(path).unlink()
    listener.close()
    assert names(path) == set()


@pytest.mark.usefixtures("qemu")
async def test_the_place_of_a_qemu_that_starts_anew_is_taken_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_WHILE_UNLINKED", 0.001)
    with closing(taken(path)) as listener:
        assert listener.path_keeper is not None
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(listener.path_keeper.keep(listener, asyncio.Event()))
            path.unlink()  # QEMU removes what is there, and listens anew
            with listening(path, 0o600) as anew:
                inode = seen(path)[3]
                await eventually(lambda: listener.has_socket_file)
                assert seen(moved(path))[3] == inode
                assert seen(path)[0] == 0o600, "the place has the mode of the new socket"
                assert anew.fileno() >= 0
            task.cancel()
    assert seen(path)[3] == inode


@pytest.mark.usefixtures("qemu")
async def test_while_qemu_is_linked_another_at_its_path_is_told_and_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CHECK_WHILE_LINKED", 0.001)
    linked = asyncio.Event()
    linked.set()
    with closing(taken(path)) as listener:
        assert listener.path_keeper is not None
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(listener.path_keeper.keep(listener, linked))
            path.unlink()
            with listening(path):
                inode = seen(path)[3]
                await eventually(lambda: "another process listens there" in caplog.text)
                assert seen(path)[3] == inode
            task.cancel()
        path.unlink()


def test_what_is_moved_is_for_its_owner_only() -> None:
    assert (BESIDE_MODE | DIRECTORY_MODE) & (stat.S_IRWXG | stat.S_IRWXO) == 0


@pytest.mark.usefixtures("qemu")
async def test_a_directory_that_was_removed_meanwhile_is_made_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_WHILE_UNLINKED", 0.001)
    with closing(taken(path)) as listener:
        assert listener.path_keeper is not None
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(listener.path_keeper.keep(listener, asyncio.Event()))
            moved(path).unlink()
            moved(path).parent.rmdir()
            path.unlink()
            with listening(path):
                await eventually(lambda: listener.has_socket_file)
                assert moved(path).is_socket()
            task.cancel()


@pytest.mark.usefixtures("qemu")
async def test_where_there_can_be_no_directory_the_socket_stays_beside_the_path(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = seen(path)
    path.with_name("q.guard").write_text("precious")
    with closing(taken(path)) as listener:
        assert listener.path_keeper is not None
        assert str(listener.path_keeper.qemu) == f"unix:{path}.qemu"
        assert "q.guard cannot be made a directory of the guard's own" in listener.path_keeper.unprotected
        assert seen(path.with_name("q.qemu")) == (BESIDE_MODE, *before[1:])
    assert "QEMU's socket stays beside it, with mode 0600" in caplog.text
    assert (names(path), seen(path)) == ({"q", "q.guard"}, before)


@pytest.mark.parametrize("note", [True, False])
async def test_what_a_guard_of_an_earlier_version_has_left_is_taken_into_the_directory(
    path: Path, qemu: socket.socket, *, note: bool
) -> None:
    before = seen(path)
    status = path.stat()
    if note:
        words = f"660 {status.st_uid} {status.st_gid} {status.st_dev} {status.st_ino}"
        path.with_name("q.qemu.lock").write_text(words)
    path.rename(path.with_name("q.qemu"))
    path.with_name("q.qemu").chmod(BESIDE_MODE)
    with listening(path):
        pass  # what a killed guard leaves: a socket at which no process listens, with the mode of QEMU's
    with closing(taken(path)):
        assert seen(moved(path)) == before
        assert names(path) == {"q", "q.guard", "q.qemu.lock"}
    assert (names(path), seen(path)) == ({"q"}, before)
    assert qemu.fileno() >= 0


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a socket to another group")
@pytest.mark.usefixtures("qemu")
async def test_the_guards_own_group_never_has_the_mode_of_qemus_socket(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, chown = [], os.chown

    def looks(at: str, *arguments: Any, **named: Any) -> None:
        modes.append(stat.S_IMODE(Path(at).stat().st_mode))
        chown(at, *arguments, **named)

    os.chown(path, 12345, 12345)
    path.chmod(0o660)
    monkeypatch.setattr(os, "chown", looks)
    with closing(taken(path)):
        assert modes == [0o600]
        assert seen(path)[:3] == (0o660, 12345, 12345)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a socket to another group")
@pytest.mark.usefixtures("qemu")
async def test_an_owner_that_cannot_be_given_is_told_and_the_place_is_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    os.chown(path, 12345, 12345)
    path.chmod(0o660)
    monkeypatch.setattr(os, "chown", refuse)
    with closing(taken(path)):
        assert seen(path)[:2] == (0o660, 0)
    assert "cannot belong to user 12345, group 12345" in caplog.text
