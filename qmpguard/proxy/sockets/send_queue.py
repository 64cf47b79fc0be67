"""Messages for one socket: whole ones, long ones that are made while they are sent, and descriptors with them."""

from __future__ import annotations

import array
import socket
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpguard.proxy.sockets.descriptors import Descriptor

#: bytes gathered into one write
WRITE_SIZE = 256 * 1024
# as a plain number: the enumerations of the standard library are a hundred times slower to combine
_NO_SIGNAL = int(socket.MSG_NOSIGNAL)


class LongMessage(NamedTuple):
    """A long message whose bytes are made as the socket takes them; before the last of them it counts for ``size``."""

    pieces: Iterator[bytes]
    size: int
    ahead: bytes | None = None  # a piece that is made already


class SendQueue:
    """The queue of one socket, oldest message first. ``size`` is in bytes, of what the socket has not taken yet.

    A descriptor travels with the first byte of its message (unix(7)), and is closed when that is sent.
    """

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: deque[tuple[bytes | LongMessage, Descriptor | None]] = deque()
        self.size = 0

    def send(self, sock: socket.socket) -> bool:
        """Send the oldest message. Return False when the socket is full, or other sockets are to have their turn.

        Raises `OSError`. The queue must not be empty.
        """
        data, descriptor = self.messages[0]
        if isinstance(data, LongMessage):
            return self._send_piece(sock, data, descriptor)
        try:
            if descriptor:
                rights = array.array("i", [descriptor.fileno()])
                sent = sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _NO_SIGNAL)
                descriptor.close()
            else:
                if len(self.messages) > 1:
                    data = self._gather()
                sent = sock.send(data, _NO_SIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        self.size -= sent
        if sent == len(data):
            self.messages.popleft()
            return True
        # the descriptor went with the first byte; what is left is bytes only
        self.messages[0] = (data[sent:], None)
        return False

    @property
    def begins_with_long(self) -> bool:
        """Whether the oldest message is a long one, which is held as a whole already."""
        return bool(self.messages) and isinstance(self.messages[0][0], LongMessage)

    def clear(self) -> None:
        """Drop every message, and close the descriptors."""
        for _, descriptor in self.messages:
            if descriptor:
                descriptor.close()
        self.messages.clear()
        self.size = 0

    def _send_piece(self, sock: socket.socket, long: LongMessage, descriptor: Descriptor | None) -> bool:
        piece = next(long.pieces, b"") if long.ahead is None else long.ahead
        if (ahead := next(long.pieces, None)) is None:
            # it is over before its last byte is sent: the answer to that may come at once
            self.messages.popleft()
            self.size -= long.size
        else:
            self.messages[0] = LongMessage(long.pieces, long.size, ahead), None
        self.messages.appendleft((piece, descriptor))
        self.size += len(piece)
        return self.send(sock) and ahead is None

    def _gather(self) -> bytes:
        """Make one message of those at the head of the queue, up to the next descriptor, and return it."""
        pieces = []
        size = 0
        while self.messages and size < WRITE_SIZE:
            data, descriptor = self.messages[0]
            if descriptor or isinstance(data, LongMessage):
                break
            self.messages.popleft()
            pieces.append(data)
            size += len(data)
        data = b"".join(pieces)
        self.messages.appendleft((data, None))
        return data
