"""What a client has sent and no request has been made of yet: bytes, the descriptor that came with them, a long id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.proxy.clients.fd_names import takes_descriptor
from qmpguard.proxy.clients.pending import LONG
from qmpguard.proxy.sockets.descriptors import close_all
from qmpguard.wire.client_messages import Echo
from qmpguard.wire.framing import MAX_REQUEST, Framer, Malformed, Message

if TYPE_CHECKING:
    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.wire.client_messages import Request


class Input:
    """Makes messages of what one client sends, and keeps the descriptor that its next `getfd` or `add-fd` takes.

    QEMU keeps the descriptors of the last message that brought any, whatever else is sent, until a command takes the
    first and closes the rest (chardev/char-socket.c: tcp_chr_recv, tcp_get_msgfds; monitor/fds.c). So one is kept for a
    client, and the rest need not wait for that to be closed.
    """

    def __init__(self, max_size: int = MAX_REQUEST, *, skips: bool = False) -> None:
        self._framer = Framer(max_size=max_size, skips=skips)
        self._long: Echo | None = None  # of a message that is read
        self._descriptor: Descriptor | None = None  # that no request has taken yet
        self.identity: bytes | None = None  # the echo of the last message's id, where it was long

    def feed(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take bytes, and descriptors that came with them."""
        if descriptors:
            self.drop()
            self._descriptor = descriptors.pop(0)
            close_all(descriptors)
        self._framer.feed(data)

    @property
    def busy(self) -> bool:
        """Say whether `pull` has something left to look at."""
        return self._framer.busy or self._long is not None

    @property
    def held(self) -> int:
        """Bytes in memory: those not looked at yet, and what the unfinished message has become."""
        return self._framer.held + (self.size if self._long is not None else 0)

    @property
    def size(self) -> int:
        """Bytes that the last message takes in memory."""
        return self._framer.size

    def pull(self) -> Message | Malformed | None:
        """Return the next message. None: it needs more bytes, or, if `busy`, another call after the others' turn.

        It works some milliseconds at a time. Never raises.
        """
        if (long := self._long) is not None:
            if not long.is_made():
                return None
            self._long, self.identity = None, long.text
            return Message(long.value)
        item = self._framer.pull()
        if self._framer.size > LONG and isinstance(item, Message):
            self._long = Echo(item.value)
            return None
        self.identity = None
        return item

    def hand_over(self, request: Request) -> Descriptor | None:
        """Return the client's descriptor for a request that takes one; None for others, or where there is none."""
        if self._descriptor is None or not takes_descriptor(request):
            return None
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    def drop(self) -> None:
        """Close the descriptor that no request has taken."""
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None
