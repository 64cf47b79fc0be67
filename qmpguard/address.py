"""Addresses on the command line: ``unix:/path`` or a bare path, ``tcp:host:port``, ``fd:N``.

A socket at which the guard listens, for clients or for QEMU, may also be ``fd:NAME``: the service manager passes it
under that name. Either the guard connects to QEMU's address, or QEMU connects to an address of the guard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from qmpguard.errors import UsageError

#: bytes of a path in struct sockaddr_un, without the terminating zero (unix(7))
MAX_UNIX_PATH = 107
#: the largest number that a descriptor can have: an int of C
MAX_FD = 2**31 - 1
#: digits of a number; Python refuses to parse thousands
MAX_DIGITS = 10
#: characters of a host's name (RFC 1035, 2.3.4)
MAX_HOST = 253


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A unix socket by its path."""

    path: str

    def __str__(self) -> str:
        """Return the address as it is written on the command line."""
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP socket by host and port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return the address as it is written on the command line."""
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class FdAddress:
    """A socket that is already open, by its descriptor number."""

    number: int

    def __str__(self) -> str:
        """Return the address as it is written on the command line."""
        return f"fd:{self.number}"


@dataclass(frozen=True, slots=True)
class NamedAddress:
    """A listening socket that the service manager passes, by its FileDescriptorName= (systemd.socket(5))."""

    name: str

    def __str__(self) -> str:
        """Return the address as it is written on the command line."""
        return f"fd:{self.name}"


Address: TypeAlias = UnixAddress | TcpAddress | FdAddress
ListenAddress: TypeAlias = Address | NamedAddress


@dataclass(frozen=True, slots=True)
class Inbound:
    """The address at which the guard listens for its QEMU, which connects (``-chardev socket,...,reconnect=``)."""

    at: ListenAddress

    def __str__(self) -> str:
        """Return the address with a remark that QEMU connects to it."""
        return f"{self.at} (it dials in)"


QemuAddress: TypeAlias = Address | Inbound


def parse_listen_address(text: str) -> ListenAddress:
    """Return the address of a socket of the guard: as `parse_address`, or ``fd:NAME``. Raises `UsageError`."""
    kind, colon, name = text.partition(":")
    if not colon or kind != "fd" or (name.isascii() and name.isdigit()):
        return parse_address(text)
    if not (name and name.isascii() and name.isprintable() and ":" not in name):
        raise UsageError(f"{text!r}: write fd:N for a descriptor, or fd:NAME for a socket that systemd passes")
    return NamedAddress(name)


def parse_address(text: str) -> Address:
    """Return the address in a text. Raises `UsageError` with the expected form."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "tcp":
        return _tcp(text, rest)
    if colon and kind == "fd":
        if (number := _number(rest)) is None or number > MAX_FD:
            raise UsageError(f"{text!r}: a descriptor is written fd:N, as in fd:3")
        return FdAddress(number)
    path = rest if colon and kind == "unix" else text
    if not path or "\0" in path:
        raise UsageError(f"{text!r} is not an address: write unix:/path, tcp:host:port or fd:N")
    if len(_path_bytes(text, path)) > MAX_UNIX_PATH:
        raise UsageError(f"{text!r}: a unix socket's path has at most {MAX_UNIX_PATH} bytes")
    return UnixAddress(path)


def _tcp(text: str, rest: str) -> TcpAddress:
    host, _, digits = rest.rpartition(":")
    port = _number(digits)
    if not host or port is None or port > 65535:
        raise UsageError(f"{text!r}: a TCP address is written tcp:host:port, as in tcp:127.0.0.1:4444")
    host = host.removeprefix("[").removesuffix("]")
    if not _is_host(host):
        raise UsageError(f"{text!r}: {host!r} is not a host name or an IP address")
    return TcpAddress(host, port)


def _is_host(host: str) -> bool:
    """Say whether a host name is valid: labels of 1 to 63 characters (RFC 5890), and no blanks."""
    if not host or len(host) > MAX_HOST or not host.isprintable() or " " in host:
        return False
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _number(digits: str) -> int | None:
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS else None


def _path_bytes(text: str, path: str) -> bytes:
    try:
        return path.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"{text!r}: the path contains a lone surrogate") from None
