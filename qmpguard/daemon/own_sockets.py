"""The names of a VM's monitor socket and of its guard's sockets, as rule `own-socket` compares them.

A socket that was passed has no address in the configuration: the kernel tells its name, and that of its peer. The
socket that a takeover has moved needs none: its path contains the name of the guard's.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from qmpguard.address import FdAddress, Inbound, NamedAddress, TcpAddress, UnixAddress
from qmpguard.policy.sockets import socket_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpguard.address import Address
    from qmpguard.config import VmConfig

#: a name as getsockname(2) tells it: a path, an abstract name in bytes, or a host with its port
SocketName = str | bytes | tuple[object, ...]


def own_names(config: VmConfig, listening: Iterable[SocketName]) -> frozenset[str]:
    """Return the names of a VM's sockets; ``listening`` are those at which its guard listens. Never raises."""
    told = [*map(_compared, listening)]
    for address in _addresses(config):
        told += _names_of(address)
    return frozenset(told) - {"", ":"}


def _addresses(config: VmConfig) -> list[Address]:
    """Return the addresses of a configuration; a socket that systemd passes is told by the kernel alone."""
    qemu = config.qemu.at if isinstance(config.qemu, Inbound) else config.qemu
    both = (config.listen,) if config.takeover is not None else (qemu, config.listen)
    return [address for address in both if not isinstance(address, NamedAddress)]


def _names_of(address: Address) -> list[str]:
    match address:
        case UnixAddress(path):
            return [socket_name(path)]
        case TcpAddress(_, port):
            return [f":{port}"]
        case FdAddress(number):
            return _names_of_descriptor(number)


def _names_of_descriptor(number: int) -> list[str]:
    """Return the names of a passed socket: its own, and that of a QEMU that listens at its other end."""
    found = []
    try:
        with socket.socket(fileno=os.dup(number)) as sock:
            found.append(_compared(sock.getsockname()))
            found.append(_compared(sock.getpeername()))
    except (OSError, OverflowError):
        pass  # it has no peer, or is no socket: then it cannot be used either
    return found


def _compared(name: SocketName) -> str:
    match name:
        case str():
            return socket_name(name)
        case bytes():
            return socket_name(name.decode(errors="surrogateescape").lstrip("\0"))
        case _:
            return f":{name[1]}" if len(name) > 1 else ""
