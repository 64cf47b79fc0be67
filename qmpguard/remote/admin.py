"""A client of the admin interface: HTTP/1.0 on a plain socket.

A health check runs every few seconds beside every VM, so it must load in milliseconds: no HTTP library. With HTTP/1.0
the response ends when the connection closes.
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

#: seconds for a response, and between two messages of a stream (the interface sends a keep-alive every 15)
ANSWER_TIMEOUT, STREAM_TIMEOUT = 5.0, 40.0
#: bytes of one recv(2)
RECEIVE_SIZE = 64 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every client command: the address, and the token for TCP."""
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
    """A client of the admin interface at one address. Raises `UsageError` where no address is given."""

    def __init__(self, admin: str | None, token_file: str | None = None) -> None:
        if not admin:
            raise UsageError("say where the admin interface listens, or set QMPGUARD_ADMIN")
        self._address = parse_address(admin)
        self._token = _token(token_file) if token_file and isinstance(self._address, TcpAddress) else None

    def get(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of a response. Raises `UnavailableError`."""
        with self._open(path, ANSWER_TIMEOUT) as sock:
            data = b"".join(self._pieces(sock))
        return _split(data, str(self._address))

    def read(self, path: str) -> Any:
        """Return a response's JSON. Raises `UnavailableError` where it is not JSON, `UsageError` for a bad request."""
        status, body = self.get(path)
        if status != 200:
            raise self._refusal(status, body)
        try:
            return json.loads(body)
        except ValueError:
            raise _not_admin(str(self._address)) from None

    def stream(self, path: str) -> Iterator[Any]:
        """Yield the messages of a stream, without end.

        Raises `UnavailableError` when it ends, `UsageError` as `read`.
        """
        with self._open(path, STREAM_TIMEOUT) as sock:
            data = b""
            head = False
            for received in self._pieces(sock):
                data += received
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
        """Return the error for a status other than 200: `UsageError` for 400, since the request is at fault."""
        error = UsageError if status == 400 else UnavailableError
        return error(f"{self._address}: {_error_text(body) or status}")

    def _open(self, path: str, timeout: float) -> socket.socket:
        """Return a connection on which the request has been sent."""
        sock, host, to = self._endpoint()
        token = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        try:
            sock.settimeout(timeout)
            sock.connect(to)
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n{token}\r\n".encode())
        except (OSError, UnicodeError, TypeError) as error:  # the last two: an invalid host name
            sock.close()
            raise UnavailableError(f"{self._address}: {getattr(error, 'strerror', None) or error}") from None
        return sock

    def _endpoint(self) -> tuple[socket.socket, str, str | tuple[str, int]]:
        """Return a socket, the value of the Host header, and the address to connect to."""
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
            while received := sock.recv(RECEIVE_SIZE):
                if not (begun or received.startswith(b"HTTP/")):
                    raise _not_admin(str(self._address))
                begun = True
                yield received
        except TimeoutError:
            raise UnavailableError(f"{self._address}: no answer within {sock.gettimeout():g} s") from None
        except OSError as error:
            raise UnavailableError(f"{self._address}: {error.strerror or error}") from None


def _split(data: bytes, where: str) -> tuple[int, bytes]:
    """Return the status and the body of a complete response."""
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise _not_admin(where)
    return int(words[1]), body


def _not_admin(where: str) -> UnavailableError:
    return UnavailableError(f"{where}: the answer there is not the admin interface's")


def _error_text(body: bytes) -> str:
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
