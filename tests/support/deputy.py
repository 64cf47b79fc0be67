"""QEMU as a deputy: a hub that passes a test's datagrams on to a socket, in QEMU's name."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.guarding import capabilities

if TYPE_CHECKING:
    from tests.support.guarding import Client

POSTCOPY = ("migrate-set-capabilities", capabilities(postcopy_ram=True))
#: what a deputy would tell QEMU's monitor
ATTACK = b'{"execute": "qmp_capabilities"}' + json.dumps({"execute": POSTCOPY[0], "arguments": POSTCOPY[1]}).encode()


async def deputy(qmp: Client, addr: dict[str, Any]) -> int:
    """Join a UDP socket and a stream to an address by a hub, whatever QEMU says to it; return the UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {"type": "inet", "host": "127.0.0.1", "port": str(port)}
    there = {**here, "port": "9"}
    for arguments in (
        {"type": "dgram", "id": "in", "local": here, "remote": there},
        {"type": "stream", "id": "out", "server": False, "addr": addr},
        {"type": "hubport", "id": "h0", "hubid": 0, "netdev": "in"},
        {"type": "hubport", "id": "h1", "hubid": 0, "netdev": "out"},
    ):
        await qmp.ask("netdev_add", arguments)
    return int(port)


def attack(port: int) -> None:
    """Send the deputy at a UDP port what it would tell a monitor."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(ATTACK, ("127.0.0.1", port))


def at(path: Path) -> dict[str, Any]:
    """The address of a unix socket."""
    return {"type": "unix", "path": str(path)}


def descriptor_of(pid: int, path: Path) -> int:
    """The number of a process's descriptor for its connection at a path (/proc/net/unix: SS_CONNECTED)."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    (inode,) = [fields[6] for fields in lines if fields[-1] == str(path) and fields[5] == "03"]
    (number,) = [int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir() if str(fd.readlink()) == f"socket:[{inode}]"]
    return number


def ways(path: str) -> list[tuple[str, dict[str, Any]]]:
    """What makes QEMU connect to a socket, or listen in its place, or cuts a connection to it."""
    unix, legacy = {"type": "unix", "path": path}, {"type": "unix", "data": {"path": path}}
    client = {"type": "socket", "data": {"addr": legacy, "server": False}}
    server = {"type": "socket", "data": {"addr": legacy, "server": True, "wait": False}}
    return [
        ("netdev_add", {"type": "stream", "id": "n1", "server": False, "addr": unix}),
        ("netdev_add", {"type": "user", "id": "n2", "guestfwd": [{"str": f"tcp:10.0.2.9:1-unix:{path}"}]}),
        ("chardev-add", {"id": "c1", "backend": client}),
        ("chardev-add", {"id": "c2", "backend": server}),
        ("migrate", {"uri": f"unix:{path}"}),
        ("nbd-server-start", {"addr": legacy}),
        ("blockdev-add", {"driver": "nbd", "node-name": "b1", "server": unix}),
    ]


def listening_sockets(pid: int) -> list[str]:
    """The unix sockets at which a process listens, each by its path and inode (/proc/net/unix: __SO_ACCEPTCON)."""
    own = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [" ".join(fields[6:]) for fields in lines if fields[3] == "00010000" and f"socket:[{fields[6]}]" in own]
