"""One request on its way: whose it is, what came with it, and who waits for its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from qmpguard.proxy.fds import Descriptor
    from qmpguard.proxy.session import Session
    from qmpguard.wire.messages import Request

#: bytes of a request above which it is handled in pieces, so that the others get their turn in between
LONG = 64 << 10
#: what stands for the reply of a request that was not sent, and never will be
NEVER_SENT = b""


class Slot:
    """The place of one request's reply in its client's order.

    ``id`` is the client's own, as its reply repeats it; the reply of an ``oob`` one waits for no other. Without a
    request it is the session's own answer, ``behind`` so many out-of-band replies. ``size``: bytes of the request in
    memory, and of its id.
    """

    __slots__ = ("behind", "descriptor", "id", "oob", "reply", "request", "returned", "session", "size")

    def __init__(self, session: Session, request: Request | None, size: int = 0) -> None:
        self.behind: int  # only where there is no request
        self.session = session
        self.request = request
        if request is None:
            self.id, self.oob = None, False
        else:
            self.id, self.oob = request.id, request.oob
            if request.id is not None:
                size += len(request.id)
        self.descriptor: Descriptor | None = None
        self.size = size
        self.reply: bytes | None = None
        self.returned: asyncio.Future[bytes | None] | None = None  # for who waits for QEMU's reply

    def abandon(self) -> None:
        """Tell who waits for QEMU's reply that there will be none, though the request was sent."""
        if self.returned and not self.returned.done():
            self.returned.set_result(None)

    def discard(self) -> None:
        """Close the descriptor of a request that will not be sent, and tell who waits for its reply."""
        self.drop_descriptor()
        if self.returned and not self.returned.done():
            self.returned.set_result(NEVER_SENT)

    def drop_descriptor(self) -> None:
        """Close the descriptor that came with the request, if it is still here."""
        if self.descriptor:
            self.descriptor.close()
            self.descriptor = None
