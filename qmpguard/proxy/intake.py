"""What a client has sent and no request has been made of yet: bytes, the descriptors that came with them, a long id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.proxy.fds import Batch
from qmpguard.proxy.passing import takes_descriptor
from qmpguard.proxy.slot import LONG
from qmpguard.wire.framing import MAX_REQUEST, Framer, Malformed, Message
from qmpguard.wire.messages import Echo

if TYPE_CHECKING:
    from qmpguard.proxy.fds import Descriptor
    from qmpguard.wire.messages import Request


class Intake:
    """Makes messages of what one client sends, and keeps the descriptors that belong to the next one."""

    def __init__(self, max_size: int = MAX_REQUEST, *, skips: bool = False) -> None:
        self._framer = Framer(max_size=max_size, skips=skips)
        self._long: Echo | None = None  # of a message that is read
        self._batch: Batch | None = None  # descriptors that no request has taken yet
        self.identity: bytes | None = None  # the echo of the last message's id, where it was long

    def feed(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take bytes, and descriptors that came with them."""
        if descriptors:
            # QEMU keeps the last batch only (chardev/char-socket.c: tcp_chr_recv)
            self.drop()
            self._batch = Batch(descriptors, data)
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

    def hand_over(self, request: Request | None) -> Descriptor | None:
        """Return the descriptor that came with the last message; a ``request`` that takes none has it closed."""
        if (batch := self._batch) is None:
            return None
        if request is not None and takes_descriptor(request):
            self._batch = None
            return batch.take()
        if batch.read:
            self.drop()
        return None

    def rest(self) -> None:
        """Take notice that what has been received is looked at: what ends next is what the descriptors came with."""
        if self._batch is not None and not self.busy:
            self._batch.read = True
            if not (self._batch.ahead or self._framer.held):
                self.drop()

    def drop(self) -> None:
        """Close the descriptors that no request has taken."""
        if self._batch is not None:
            self._batch.close()
            self._batch = None
