"""The clients that measure: blocking sockets in tight loops, so that they cost the same whatever they measure."""

from __future__ import annotations

import json
import select
import socket
import time
from pathlib import Path
from typing import Any

#: seconds for whatever should answer at once
TIMEOUT = 30.0
_READ = 1 << 18


def request(command: str, arguments: dict[str, Any] | None = None) -> bytes:
    """Return a request as libvirt writes it: one line, with an id."""
    message = {"execute": command, **({"arguments": arguments} if arguments else {}), "id": "libvirt-42"}
    return json.dumps(message).encode() + b"\r\n"


def least(command: str) -> bytes:
    """Return a request in the fewest bytes: without an id, spaces and a line's end."""
    return b'{"execute":"%b"}' % command.encode()


class Connection:
    """One negotiated client. It connects as soon as somebody listens at ``path``; ``oob``: with out-of-band enabled."""

    def __init__(self, path: Path, *, oob: bool = False) -> None:
        self.sock = _connected(path)
        self._rest = b""
        self.greeting = self.line()
        self.greeted = time.perf_counter()
        assert b'"return"' in self.ask(request("qmp_capabilities", {"enable": ["oob"]} if oob else None))

    def close(self) -> None:
        """Disconnect."""
        self.sock.close()

    def line(self) -> bytes:
        """Return the next message."""
        pieces = [self._rest]
        while b"\n" not in pieces[-1]:
            pieces.append(self._receive())
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        return line

    def ask(self, message: bytes) -> bytes:
        """Send a request and return its reply, passing over events."""
        self.sock.sendall(message)
        while b'"event"' in (line := self.line())[:256] and b'"timestamp"' in line[:256]:
            pass
        return line

    def value(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Ask, and return what QEMU returns; None where it is an error."""
        return json.loads(self.ask(request(command, arguments))).get("return")

    def round_trips(self, message: bytes, count: int) -> float:
        """Return the seconds of one round trip, on the average of ``count``."""
        sock = self.sock
        start = time.perf_counter()
        for _ in range(count):
            sock.sendall(message)
            while sock.recv(_READ)[-1:] != b"\n":
                pass
        return (time.perf_counter() - start) / count

    def single_trips(self, message: bytes, count: int) -> list[float]:
        """Return the seconds of each of ``count`` round trips."""
        return [self.round_trips(message, 1) for _ in range(count)]

    def pipeline(self, message: bytes, count: int, depth: int) -> float:
        """Return the seconds per request with ``depth`` of them always under way."""
        sock = self.sock
        start = time.perf_counter()
        sent, answered = depth, 0
        sock.sendall(message * depth)
        while answered < count:
            replies = sock.recv(_READ).count(b"\n")
            answered += replies
            if more := min(replies, count - sent):
                sock.sendall(message * more)
                sent += more
        return (time.perf_counter() - start) / count

    def burst(self, messages: bytes, count: int) -> None:
        """Send requests together and wait for as many replies."""
        self.sock.sendall(messages)
        self.hear(count)

    def hear(self, count: int) -> None:
        """Wait until there have been so many messages."""
        while count > 0:
            count -= self._receive().count(b"\n")

    def _receive(self) -> bytes:
        data = self.sock.recv(_READ)
        if not data:
            raise ConnectionError("the other side has closed the connection")
        return data


class Crowd:
    """Many clients of one socket, driven by one loop. Each has ``depth`` requests under way."""

    def __init__(self, path: Path, count: int, depth: int = 1) -> None:
        self._depth = depth
        self._connections = [Connection(path) for _ in range(count)]
        self._poll = select.epoll()
        self._socks = {c.sock.fileno(): c.sock for c in self._connections}
        for number in self._socks:
            self._poll.register(number, select.EPOLLIN)

    def close(self) -> None:
        """Disconnect all of them."""
        self._poll.close()
        for connection in self._connections:
            connection.close()

    def ask(self, message: bytes, count: int) -> float:
        """Return the seconds per request when each client sends its next one as soon as it has a reply."""
        sent, answered = len(self._socks) * self._depth, 0
        start = time.perf_counter()
        for sock in self._socks.values():
            sock.sendall(message * self._depth)
        while answered < count:
            for number, _ in self._poll.poll(TIMEOUT):
                replies = self._socks[number].recv(_READ).count(b"\n")
                answered += replies
                if more := min(replies, count - sent):
                    self._socks[number].sendall(message * more)
                    sent += more
        return (time.perf_counter() - start) / count

    def hear(self, count: int) -> None:
        """Wait until there have been so many messages at all of them together."""
        while count > 0:
            for number, _ in self._poll.poll(TIMEOUT):
                count -= self._socks[number].recv(_READ).count(b"\n")


def _connected(path: Path) -> socket.socket:
    deadline = time.monotonic() + TIMEOUT
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(TIMEOUT)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            # blocking, without asking the kernel twice for each read; but not for ever
            sock.setblocking(True)
            seconds = int(TIMEOUT).to_bytes(8, "little") + bytes(8)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
            return sock
