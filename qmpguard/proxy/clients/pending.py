"""A client's request from its arrival to its reply.

A pending request passes through these states, each by the call that is named:

    read        the session has made it of the client's message, and owns its descriptor
    queued      `Scheduler.submit`: it waits for its turn, or for room in the window of QEMU's monitor
    judged      the gate is about to decide; where it is refused, `Session.settle` ends it without QEMU
    sent        `Link.send`: QEMU has it, the descriptor went with it, and its number stands in the link's table
    settled     `Session.settle`: its reply is known, and waits at most for earlier replies of the same client

It leaves that order in two ways. ``discard``: it will never be sent, since its client or the link has gone.
`Unanswered.LOST`: it was sent, and the link was lost. Then nobody knows whether QEMU has executed it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from qmpguard.proxy.closing import CloseReason
    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.record import Peer
    from qmpguard.wire.client_messages import Request

#: bytes of a request above which it is handled in pieces, so that other clients get their turn in between
LONG = 64 << 10


class Unanswered(Enum):
    """Why QEMU has not answered a request and will not."""

    NOT_SENT = "it was not sent, and never will be"
    LOST = "it was sent, and the link was lost before the reply"


#: What came of a request: QEMU's own bytes, with the guard's id in them. A client's id is never in what is parsed.
Outcome: TypeAlias = bytes | Unanswered


class Requester(Protocol):
    """The session that a request belongs to, as the scheduler and the gate see it."""

    peer: Peer
    privileged: bool
    #: its in-band requests that are not sent yet, oldest first
    todo: deque[PendingRequest]
    #: its in-band request behind which later ones wait, since it is being judged
    holder: PendingRequest | None

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be sent to the client."""
        ...

    def settle(self, pending: PendingRequest, reply: bytes) -> None:
        """Give a request its reply."""
        ...

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the conversation."""
        ...


class PendingRequest:
    """One request, its session, and what is needed for its reply.

    ``id`` is the client's own as its reply repeats it, encoded. ``size`` is the bytes of the request and of its id in
    memory. ``had_descriptor``: one came with it. ``judged``: the gate need not look at it any more. ``reply`` waits
    for earlier replies of the same client. ``on_outcome`` is called once with what came of the request, before its
    reply is sent.
    """

    __slots__ = (
        *("descriptor", "had_descriptor", "id", "judged", "on_outcome", "oob", "reply"),
        *("request", "sent", "session", "settled", "size"),
    )

    def __init__(
        self, session: Requester, request: Request, size: int = 0, descriptor: Descriptor | None = None
    ) -> None:
        self.session = session
        self.request = request
        self.id = request.id
        self.oob = request.oob
        self.size = size if request.id is None else size + len(request.id)
        self.descriptor = descriptor
        self.had_descriptor = descriptor is not None
        self.reply: bytes | None = None
        self.judged = False
        self.sent = False
        self.settled = False
        self.on_outcome: Callable[[Outcome], None] | None = None

    def conclude(self, outcome: Outcome) -> None:
        """Call ``on_outcome``, if it has not been called yet."""
        if self.on_outcome is not None:
            callback, self.on_outcome = self.on_outcome, None
            callback(outcome)

    def discard(self) -> None:
        """Close the descriptor of a request that will not be sent, and tell the gate so."""
        self.drop_descriptor()
        self.conclude(Unanswered.NOT_SENT)

    def drop_descriptor(self) -> None:
        """Close the descriptor that came with the request, if it was not sent."""
        if self.descriptor:
            self.descriptor.close()
            self.descriptor = None
