"""The names by which rule own-socket knows the sockets of a VM's monitor and of its guard."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import Address, FdAddress, Inbound, NamedAddress, TcpAddress, UnixAddress
from qmpguard.config import VmConfig
from qmpguard.daemon.guard import GuardedVm
from qmpguard.daemon.own_sockets import own_names
from qmpguard.daemon.systemd import PassedSockets
from qmpguard.proxy.listening.qemu_listener import duplicate_listening

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.address import QemuAddress

LISTEN = UnixAddress("/run/web.sock")


@pytest.mark.parametrize(
    ("qemu", "names"),
    [
        (UnixAddress("/run/qmp.sock"), {"qmp.sock"}),
        (TcpAddress("h", 4444), {":4444"}),
        (Inbound(UnixAddress("/run/in.sock")), {"in.sock"}),
        (Inbound(TcpAddress("h", 4444)), {":4444"}),
        (Inbound(NamedAddress("qemu")), set()),  # the kernel tells it
        (FdAddress(1 << 40), set()),
        (FdAddress(99_999), set()),
    ],
    ids=str,
)
def test_addresses_have_names(qemu: QemuAddress, names: set[str]) -> None:
    assert own_names(VmConfig("web", qemu, LISTEN), ()) == names | {"web.sock"}


def test_what_a_takeover_has_moved_has_the_name_of_the_guards() -> None:
    moved = VmConfig("web", UnixAddress("/run/web.sock.guard/qemu"), LISTEN, takeover="/run/web.sock")
    assert own_names(moved, ()) == {"web.sock"}


@pytest.mark.parametrize(
    ("told", "name"),
    [("/run/a.sock", "a.sock"), (b"\0a/b", "b"), (("::", 4444, 0, 0), ":4444"), ("", ""), (b"", ""), ((), "")],
    ids=str,
)
def test_the_kernel_tells_names(told: str | bytes | tuple[object, ...], name: str) -> None:
    assert own_names(VmConfig("web", FdAddress(99_999), LISTEN), [told]) == {"web.sock", name} - {""}


def test_a_passed_connection_has_the_name_of_its_other_end(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as passed:
        server.bind(str(path))
        server.listen()
        passed.connect(str(path))
        accepted, _ = server.accept()
        with accepted:
            for sock in (passed, accepted):
                assert own_names(VmConfig("web", FdAddress(sock.fileno()), LISTEN), ()) == {"qmp.sock", "web.sock"}


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


async def test_sockets_that_were_passed_are_known_by_the_names_that_the_kernel_tells(tmp_path: Path) -> None:
    with listening(tmp_path / "c.sock") as clients, listening(tmp_path / "q.sock") as for_qemu:
        sockets = PassedSockets({"qmp": [clients.fileno()], "qemu": [for_qemu.fileno()]})
        guard = GuardedVm(VmConfig("web", Inbound(NamedAddress("qemu")), NamedAddress("qmp")), sockets=sockets)
        assert guard.vm.gate.given.own == frozenset()
        guard.vm.connections.listener = guard.open_for_qemu()
        guard.listen(guard.open())
        assert guard.vm.gate.given.own == {"c.sock", "q.sock"}
        guard.adopt(guard.config)
        assert guard.vm.gate.given.own == {"c.sock", "q.sock"}
        guard.close()
        number: Address = duplicate_listening(FdAddress(for_qemu.fileno()))
        assert isinstance(number, FdAddress), "the passed socket is still open"
        socket.socket(fileno=number.number).close()
