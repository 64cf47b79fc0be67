"""One request on its way: whose it is, what came with it, and who waits for its reply."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import asyncio

    from qmpguard.proxy.clients.session import Session
    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.wire.client_messages import Request

#: bytes of a request above which it is handled in pieces, so that the others get their turn in between
LONG = 64 << 10


class Unanswered(Enum):
    """Why QEMU has not answered a request and will not."""

    NOT_SENT = "it was not sent, and never will be"
    LOST = "it was sent, and the link was lost before the reply"


#: What came of a request: QEMU's own bytes, with the guard's id in them. A client's id is never in what is parsed.
Outcome: TypeAlias = bytes | Unanswered


class PendingRequest:
    """The place of one request's reply in its client's order.

    ``id`` is the client's own, as its reply repeats it; the reply of an ``oob`` one waits for no other. Without a
    request it is the session's own answer, ``behind`` so many out-of-band replies. ``size``: bytes of the request in
    memory, and of its id.
    """

    __slots__ = (
        "behind",
        "descriptor",
        "id",
        "oob",
        "outcome",
        "reply",
        "request",
        "sent",
        "session",
        "settled",
        "size",
    )

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
        self.sent = False  # to QEMU
        self.settled = False  # its reply is known
        self.outcome: asyncio.Future[Outcome] | None = None  # for a verdict that waits for QEMU's reply

    def conclude(self, outcome: Outcome) -> None:
        """Tell the verdict that waits for QEMU's reply what came of the request."""
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_result(outcome)

    def discard(self) -> None:
        """Close the descriptor of a request that will not be sent, and tell the verdict that waits for its reply."""
        self.drop_descriptor()
        self.conclude(Unanswered.NOT_SENT)

    def drop_descriptor(self) -> None:
        """Close the descriptor that came with the request, if it is still here."""
        if self.descriptor:
            self.descriptor.close()
            self.descriptor = None
