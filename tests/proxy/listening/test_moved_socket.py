"""The directory of QEMU's moved socket: whose it is, who may enter, and what is said where it cannot be."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import MAX_UNIX_PATH, FdAddress, UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening.moved_socket import MovedSocket, moved_path, takeover_hint

if TYPE_CHECKING:
    from pathlib import Path

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to another user")


def bound(path: Path, mode: int = 0o660) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    path.chmod(mode)


def test_a_path_that_would_be_too_long_in_a_directory_is_beside(tmp_path: Path) -> None:
    longest = "/" + "a" * (MAX_UNIX_PATH - len("/.guard/qemu"))
    assert moved_path(longest) == f"{longest}.guard/qemu"
    assert moved_path(longest + "a") == f"{longest}a.qemu"
    moved = MovedSocket(longest + "a")
    moved.prepare()
    assert "would be too long" in moved.unprotected
    assert str(moved.path) == f"{longest}a.qemu"


def test_the_directory_is_only_for_the_guard_and_the_socket_keeps_its_mode(tmp_path: Path) -> None:
    bound(tmp_path / "q")
    moved = MovedSocket(str(tmp_path / "q"))
    moved.prepare()
    moved.move(tmp_path / "q", 0o660)
    status = moved.path.parent.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, os.geteuid())
    assert stat.S_IMODE(moved.path.stat().st_mode) == 0o660
    assert moved.give_back(0o660)
    assert not moved.give_back(0o660), "there is none any more"
    moved.remove_directory()
    assert [found.name for found in tmp_path.iterdir()] == ["q"]


@AS_ROOT
@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_root_takes_a_directory_over_that_another_user_has_made(tmp_path: Path, mode: int) -> None:
    (tmp_path / "q.guard").mkdir()
    (tmp_path / "q.guard").chmod(mode)
    os.chown(tmp_path / "q.guard", 12345, 12345)
    moved = MovedSocket(str(tmp_path / "q"))
    moved.prepare()
    status = (tmp_path / "q.guard").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, moved.unprotected) == (0o700, 0, "")


@AS_ROOT
def test_root_takes_none_over_where_any_user_could_have_made_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    (tmp_path / "q.guard").mkdir()
    os.chown(tmp_path / "q.guard", 12345, 12345)
    with pytest.raises(UnavailableError, match="belongs to user 12345"):
        MovedSocket(str(tmp_path / "q")).prepare()
    assert (tmp_path / "q.guard").stat().st_uid == 12345


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o755)
    (tmp_path / "q.guard").symlink_to(tmp_path / "theirs")
    moved = MovedSocket(str(tmp_path / "q"))
    moved.prepare()
    assert "cannot be made a directory of the guard's own" in moved.unprotected
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o755


def test_a_directory_of_another_user_is_refused_since_qemus_socket_may_be_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "q.guard").mkdir()
    owner = os.geteuid()
    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UnavailableError, match=f"belongs to user {owner}, whose guard may keep QEMU's socket there"):
        MovedSocket(str(tmp_path / "q")).prepare()


@pytest.mark.parametrize("place", ["q.guard/qemu", "q.qemu"])
def test_what_is_no_socket_is_not_taken_for_one(tmp_path: Path, place: str) -> None:
    (tmp_path / "q.guard").mkdir()
    (tmp_path / place).write_text("mine")
    moved = MovedSocket(str(tmp_path / "q"))
    moved.prepare()
    with pytest.raises(UnavailableError, match="it is not a socket"):
        moved.find()
    assert takeover_hint(UnixAddress(str(tmp_path / "q"))) == ""


@pytest.mark.parametrize("place", ["q.guard/qemu", "q.qemu"])
def test_a_guard_without_takeover_is_told_where_the_socket_is(tmp_path: Path, place: str) -> None:
    assert takeover_hint(UnixAddress(str(tmp_path / "q"))) == ""
    (tmp_path / "q.guard").mkdir()
    assert takeover_hint(UnixAddress(str(tmp_path / "q"))) == "", "an empty directory holds no socket"
    bound(tmp_path / place)
    hint = takeover_hint(UnixAddress(str(tmp_path / "q")))
    assert hint.endswith(f"to {tmp_path / place}: start it again with --takeover {tmp_path / 'q'}")
    assert takeover_hint(FdAddress(3)) == takeover_hint(UnixAddress("\0abstract")) == ""
