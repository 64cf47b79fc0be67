"""Whether QEMU can connect to its own monitor, by the permissions of the path; and nothing where it is not known."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import FdAddress, Inbound, TcpAddress, UnixAddress
from qmpguard.cli import main
from qmpguard.config import VmConfig
from qmpguard.daemon.exposure import UNKNOWN_USER, expected_exposure, exposure, may_connect
from qmpguard.proxy.listening.peer import ProcessIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qmpguard.address import QemuAddress

USER, GROUP = 12345, 23456
QEMU = ProcessIdentity(4194305, USER, GROUP)
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


@contextmanager
def bound(path: Path, mode: int, owner: int | None = None) -> Iterator[str]:
    """A socket in a directory that everybody may enter, but for what a test changes."""
    for folder in path.parents:
        if folder.name.startswith("pytest-") or str(folder) == "/tmp":  # which is everybody's
            break
        folder.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.chmod(mode)
        if owner is not None:
            os.chown(path, owner, GROUP)
        yield str(path)


@pytest.fixture
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory whose parents everybody may enter, which those of `tmp_path` do not allow."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@AS_ROOT
@pytest.mark.parametrize(
    ("mode", "owner", "may"),
    [
        (0o600, USER, True),
        (0o400, USER, False),  # connect(2) needs the permission to write
        (0o060, USER, False),  # the owner's bits alone hold for the owner
        (0o660, 0, True),  # by the group
        (0o600, 0, False),
        (0o606, 1, False),  # the group's bits hold for a member
        (0o602, 1, False),
    ],
)
def test_a_user_may_connect_as_the_mode_bits_say(open_folder: Path, mode: int, owner: int, *, may: bool) -> None:
    with bound(open_folder / "q", mode, owner) as path:
        assert may_connect(path, USER, {GROUP}) is may
        assert may_connect(path, 0, ()), "root may always"
        assert bool(exposure(UnixAddress(path), QEMU)) is may
        (open_folder / "link").symlink_to(path)
        assert may_connect(str(open_folder / "link"), USER, {GROUP}) is may


@AS_ROOT
def test_a_directory_that_the_user_may_not_enter_closes_the_way(open_folder: Path) -> None:
    inside = open_folder / "q.guard"
    inside.mkdir(mode=0o700)
    with bound(inside / "qemu", 0o666, USER) as path:
        inside.chmod(0o700)
        assert exposure(UnixAddress(path), QEMU) == ""
        assert "runs as user 0, can connect" in exposure(UnixAddress(path), ProcessIdentity(4194305, 0))


def test_an_abstract_name_has_no_permissions() -> None:
    assert may_connect("\0monitor", USER, ())


@pytest.mark.parametrize(
    ("address", "qemu"),
    [
        (FdAddress(3), QEMU),
        (Inbound(UnixAddress("/tmp")), QEMU),
        (UnixAddress("/nowhere"), QEMU),
        (UnixAddress("\0monitor"), None),
        (UnixAddress("\0monitor"), ProcessIdentity(os.getpid(), 0)),  # a QEMU that a test plays
        (UnixAddress("\0monitor"), ProcessIdentity(7, UNKNOWN_USER)),
        (UnixAddress("/a\0b"), QEMU),
    ],
)
def test_where_it_cannot_or_is_not_known_nothing_is_said(address: QemuAddress, qemu: ProcessIdentity | None) -> None:
    assert exposure(address, qemu) == ""
    assert expected_exposure(VmConfig("a", FdAddress(3), UnixAddress("/b"))) == ""


def test_the_note_says_the_harm_and_the_three_ways_that_close_it() -> None:
    note = exposure(UnixAddress("\0monitor"), QEMU)
    assert all(word in note for word in ("own monitor", "without the guard", "exec", "--qemu-listen", "--takeover"))
    assert "\n" not in note
    by_tcp = exposure(TcpAddress("127.0.0.1", 4444), None)
    assert by_tcp.startswith("QEMU listens at tcp:127.0.0.1:4444: QEMU itself, and every process")


@AS_ROOT
def test_the_settings_tell_it_by_the_owner_of_the_socket(open_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = open_folder / "q"
    vm = VmConfig("a", UnixAddress(str(path)), UnixAddress("/b"))
    taken = replace(vm, qemu=UnixAddress(f"{path}.guard/qemu"), listen=UnixAddress(str(path)), takeover=str(path))
    assert expected_exposure(vm) == expected_exposure(taken) == "", "QEMU has not been started"
    with bound(path, 0o600, USER):
        assert expected_exposure(vm).startswith(f"QEMU, as the owner of {path}, can connect to its own monitor")
        assert expected_exposure(taken) == ""
        file = open_folder / "c.toml"
        file.write_text(f'[[vm]]\nname = "web"\nqemu = "{path}"\nlisten = "/run/web.sock"\n')
        assert main(["config", "check", str(file)]) == 0
        assert f"note: web: QEMU, as the owner of {path}, can connect" in capsys.readouterr().out
        os.chown(path, 0, 0)
        assert expected_exposure(vm).startswith("if QEMU runs as root")
        assert expected_exposure(taken).startswith("if QEMU runs as root"), "root enters every directory"
