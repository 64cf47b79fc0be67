"""A listening socket and its file: a stale socket is replaced, anything else stays, and only our own is removed."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import Address, FdAddress, TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening import socket_file
from qmpguard.proxy.listening.socket_file import Listening, file_id, is_unused, open_listening, set_file_permissions
from tests.support.descriptors import open_files, opened_since

if TYPE_CHECKING:
    from collections.abc import Callable


def opened(path: Path, mode: int = 0o600, group: int | None = None) -> Listening:
    return open_listening(UnixAddress(str(path)), mode, group)


def stale(path: Path) -> None:
    """Leave the file of a socket at which nobody listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_file_has_the_mode_from_its_first_moment_whatever_the_umask(mode: int, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with closing(opened(tmp_path / "s", mode)) as listening:
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
            assert not listening.sock.getblocking()
            assert listening.has_path
        assert os.umask(0o077) == 0o077, "the umask is as it was"
    finally:
        os.umask(before)


def test_clients_can_connect_and_at_the_end_nothing_is_left(tmp_path: Path) -> None:
    before = open_files()
    with closing(opened(tmp_path / "s")), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        assert not is_unused(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
    assert not opened_since(before)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    stale(tmp_path / "s")
    assert is_unused(tmp_path / "s")
    with closing(opened(tmp_path / "s")):
        assert not is_unused(tmp_path / "s")


def a_file(path: Path) -> None:
    path.write_text("precious")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    stale(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize("there", [a_file, a_folder, a_link])
def test_what_is_no_socket_stays(there: Callable[[Path], None], tmp_path: Path) -> None:
    there(tmp_path / "s")
    found = file_id(str(tmp_path / "s"))
    with pytest.raises(UnavailableError, match="a file that is not a socket is there; remove it yourself"):
        opened(tmp_path / "s")
    assert file_id(str(tmp_path / "s")) == found


def test_a_socket_at_which_another_listens_stays_even_with_a_full_backlog(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(tmp_path / "s"))
        other.listen(0)
        waiting.connect(str(tmp_path / "s"))  # now the backlog is full
        assert not is_unused(tmp_path / "s")
        with pytest.raises(UnavailableError, match="another process listens there"):
            opened(tmp_path / "s")


@pytest.mark.parametrize("change", ["removed", "replaced", "moved away and a file there"])
def test_a_path_that_leads_elsewhere_is_not_ours_and_is_left_alone(change: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    listening = opened(path)
    path.rename(tmp_path / "old")
    if change == "replaced":
        stale(path)
    elif change != "removed":
        path.write_text("precious")
    there = file_id(str(path))
    assert not listening.has_path
    listening.close()
    assert file_id(str(path)) == there


def test_closing_twice_closes_once(tmp_path: Path) -> None:
    listening = opened(tmp_path / "s")
    listening.close()
    (tmp_path / "s").write_text("another's")
    listening.close()
    assert (tmp_path / "s").read_text() == "another's"


@pytest.mark.parametrize("fails", ["set_file_permissions", "open"])
def test_an_error_on_the_way_leaves_nothing_behind(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = open_files()
    monkeypatch.setattr(*(os, "open", refuse) if fails == "open" else (socket_file, fails, refuse))
    with pytest.raises(UnavailableError, match="Operation not permitted"):
        opened(tmp_path / "s", group=1)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert not opened_since(before)


#: a group that the file does not have; as an ordinary user, one of its own where there is another
OTHER_GROUP = 12345 if os.geteuid() == 0 else next((g for g in os.getgroups() if g != os.getegid()), os.getegid())


def test_the_file_may_be_given_to_a_group(tmp_path: Path) -> None:
    stale(tmp_path / "s")
    set_file_permissions(str(tmp_path / "s"), 0o600, None)
    set_file_permissions(str(tmp_path / "s"), 0o660, os.getegid())
    assert (tmp_path / "s").stat().st_gid == os.getegid()
    with pytest.raises(FileNotFoundError):
        set_file_permissions(str(tmp_path / "gone"), 0o600, os.getegid())


@pytest.mark.skipif(os.getegid() == OTHER_GROUP, reason="needs root, or a second group")
@pytest.mark.parametrize(("before", "after"), [(0o600, 0o660), (0o660, 0o600), (0o666, 0o660), (0o660, 0o666)])
@pytest.mark.parametrize("opens", [True, False], ids=["a new socket", "a socket that is there"])
def test_no_group_may_connect_while_the_group_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int, *, opens: bool
) -> None:
    path, modes, chown = tmp_path / "s", [], os.chown

    def looks(*arguments: Any, **named: Any) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        chown(*arguments, **named)
        modes.append(stat.S_IMODE(path.stat().st_mode))

    if not opens:
        stale(path)
        path.chmod(before)
    monkeypatch.setattr(os, "chown", looks)
    if opens:
        opened(path, mode=after, group=OTHER_GROUP).sock.close()
    else:
        set_file_permissions(str(path), after, OTHER_GROUP)
    assert modes
    assert all(mode & 0o070 == 0 and mode & ~after == 0 and (opens or mode & ~before == 0) for mode in modes)
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_gid) == (after, OTHER_GROUP)


def test_a_group_that_cannot_be_given_leaves_the_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    stale(tmp_path / "s")
    (tmp_path / "s").chmod(0o660)
    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(PermissionError):
        set_file_permissions(str(tmp_path / "s"), 0o600, os.getegid() + 1)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660


def test_an_abstract_name_leaves_nothing_behind(tmp_path: Path) -> None:
    name = f"\0qmpguard-test-{os.getpid()}-{tmp_path.name}"
    with closing(open_listening(UnixAddress(name), 0o600, None)) as listening:
        assert (listening.path, listening.has_path) == (None, False)
        with pytest.raises(UnavailableError, match="Address already in use"):
            open_listening(UnixAddress(name), 0o600, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp_has_no_file(host: str) -> None:
    try:
        listening = open_listening(TcpAddress(host, 0), 0o600, None)
    except UnavailableError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with closing(listening):
        assert (listening.path, listening.has_path) == (None, False)


def test_a_passed_socket_is_taken_only_if_it_listens(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(UnavailableError, match="it is not a listening stream socket"):
            open_listening(FdAddress(ours.fileno()), 0o600, None)
        ours.getsockname()  # it is open still
    server = socket.create_server(("127.0.0.1", 0))
    number = server.detach()
    with closing(open_listening(FdAddress(number), 0o600, None)) as listening:
        assert listening.sock.fileno() == number


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (UnixAddress("/nowhere/s"), "No such file or directory"),
        (UnixAddress("/tmp/" + "x" * 200), "too long"),
        (TcpAddress("192.0.2.1", 1), "assign requested address"),
        (FdAddress(99_999), "Bad file descriptor"),
        (FdAddress(1 << 40), "cannot listen at"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_with_its_address(address: Address, words: str) -> None:
    with pytest.raises(UnavailableError, match=words) as caught:
        open_listening(address, 0o600, None)
    assert str(caught.value).startswith(f"cannot listen at {address}")
