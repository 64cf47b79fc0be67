"""A visitor of the admin interface: HTTP by hand, with the standard library only and little of that.

A health check runs every few seconds beside every VM, so what it loads is counted in milliseconds. HTTP/1.0 keeps it
simple: the answer ends where the connection does.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpguard.address import TcpAddress, UnixAddress, parse_address
from qmpguard.errors import QmpguardError, UnavailableError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

#: seconds for an answer, and between two signs of life of a stream (the interface sends one every 15)
ANSWER_TIMEOUT, SILENCE = 5.0, 40.0
#: bytes that are read at once
PIECE = 64 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every command needs that visits: the address, and the token for TCP."""
    parser.add_argument(
        "admin",
        metavar="ADMIN",
        nargs="?",
        default=os.environ.get("QMPGUARD_ADMIN"),
        help="where the admin interface listens: unix:/path or a bare path, or tcp:host:port [QMPGUARD_ADMIN]",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        default=os.environ.get("QMPGUARD_ADMIN_TOKEN_FILE"),
        help="the secret that it asks for on TCP [QMPGUARD_ADMIN_TOKEN_FILE]",
    )


class AdminClient:
    """One who asks the admin interface at an address. Raises `UsageError` where there is none."""

    def __init__(self, admin: str | None, token_file: str | None = None) -> None:
        if not admin:
            raise UsageError("say where the admin interface listens, or set QMPGUARD_ADMIN")
        self._address = parse_address(admin)
        self._token = _token(token_file) if token_file and isinstance(self._address, TcpAddress) else None

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of an answer. Raises `UnavailableError`."""
        with self._open(path, ANSWER_TIMEOUT) as sock:
            data = b"".join(self._pieces(sock))
        return _split(data, str(self._address))

    def read(self, path: str) -> Any:
        """Return an answer's JSON; raises `UnavailableError` where it is none, `UsageError` for a wrong question."""
        status, body = self.get(path)
        if status != 200:
            raise self._refusal(status, body)
        try:
            return json.loads(body)
        except ValueError:
            raise _strange(str(self._address)) from None

    def stream(self, path: str) -> Iterator[Any]:
        """Yield the messages of a stream, for ever. Raises `UnavailableError` when it ends, `UsageError` as `read`."""
        with self._open(path, SILENCE) as sock:
            data = b""
            head = False
            for piece in self._pieces(sock):
                data += piece
                if not head and b"\r\n\r\n" in data:
                    status, data = _split(data, str(self._address))
                    if status != 200:
                        raise self._refusal(status, data)
                    head = True
                *messages, data = data.split(b"\n\n") if head else [data]
                for message in messages:
                    if text := b"".join(line[5:] for line in message.split(b"\n") if line.startswith(b"data:")):
                        yield json.loads(text)
        raise UnavailableError(f"{self._address}: the guard has ended the stream")

    def _refusal(self, status: int, body: bytes) -> QmpguardError:
        """Return what an answer other than 200 means: a question that it does not take is the asker's fault."""
        error = UsageError if status == 400 else UnavailableError
        return error(f"{self._address}: {_complaint(body) or status}")

    def _open(self, path: str, patience: float) -> socket.socket:
        """Return a connection on which a request was sent."""
        sock, host, to = self._end()
        token = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        try:
            sock.settimeout(patience)
            sock.connect(to)
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n{token}\r\n".encode())
        except (OSError, UnicodeError, TypeError) as error:  # the last two: for a host's name that cannot be one
            sock.close()
            raise UnavailableError(f"{self._address}: {getattr(error, 'strerror', None) or error}") from None
        return sock

    def _end(self) -> tuple[socket.socket, str, str | tuple[str, int]]:
        """Return a socket, what the host is called, and where to connect to."""
        match self._address:
            case UnixAddress(path):
                return socket.socket(socket.AF_UNIX), "localhost", path
            case TcpAddress(name, port) if ":" in name:
                return socket.socket(socket.AF_INET6), f"[{name}]", (name, port)
            case TcpAddress(name, port):
                return socket.socket(socket.AF_INET), name, (name, port)
            case _:
                raise UsageError(f"{self._address}: the admin interface has a path or a port")

    def _pieces(self, sock: socket.socket) -> Iterator[bytes]:
        begun = False
        try:
            while piece := sock.recv(PIECE):
                if not (begun or piece.startswith(b"HTTP/")):
                    raise _strange(str(self._address))
                begun = True
                yield piece
        except TimeoutError:
            raise UnavailableError(f"{self._address}: no answer within {sock.gettimeout():g} s") from None
        except OSError as error:
            raise UnavailableError(f"{self._address}: {error.strerror or error}") from None


def _split(data: bytes, where: str) -> tuple[int, bytes]:
    """Return the status and the body of a whole answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise _strange(where)
    return int(words[1]), body


def _strange(where: str) -> UnavailableError:
    return UnavailableError(f"{where}: what answers there is no admin interface")


def _complaint(body: bytes) -> str:
    try:
        members = json.loads(body)
    except ValueError:
        return ""
    return str(members.get("error", "")) if isinstance(members, dict) else ""


def _token(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        named = "QMPGUARD_ADMIN_TOKEN_FILE=" if path == os.environ.get("QMPGUARD_ADMIN_TOKEN_FILE") else "--token-file "
        raise UsageError(f"{named}{path}: {getattr(error, 'strerror', None) or 'not plain ASCII'}") from None
