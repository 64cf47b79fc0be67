"""The order of one client's replies.

QEMU answers in-band requests in the order in which it has read them, and an out-of-band request at once, while it
reads (monitor/qmp.c: handle_qmp_command, monitor_qmp_dispatcher_co). Three kinds of reply follow from that here:

* The reply of an in-band request waits for those of all earlier in-band requests.
* The reply of an out-of-band request waits for none.
* The session's own answer (`OwnAnswer`) is one that QEMU gives before it looks at a command: to bytes that are no
  JSON, to an object that is no request, and in the negotiation. QEMU puts the error into the queue of in-band requests,
  so the answer takes its place among their replies. It also waits for every out-of-band request that was read before
  it, since QEMU has answered those before it read on.

Why this is QEMU's order. Let A be an own answer, read behind the in-band requests I and the out-of-band requests O.
The queue ``_in_order`` holds I before A, and only its head is ever written, so every reply of I precedes A. Each
request of O has a number of at most ``A.behind``, the number of the last one at that moment. A is written only when the
oldest out-of-band request without a reply has a greater number: then all of O have theirs. An out-of-band request that
is read later has a greater number, so it never delays A, and its reply may come before A, as at QEMU.

Nothing is left waiting: each call that may make the head ready ends with `_write_ready`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.proxy.clients.pending import PendingRequest


class OwnAnswer(NamedTuple):
    """A reply that the session has made by itself; ``behind`` is the number of the last out-of-band request."""

    reply: bytes
    behind: int


class ReplyOrder:
    """Requests in, replies out in QEMU's order. ``outstanding`` is the number of requests without a written reply."""

    __slots__ = ("_in_order", "_number", "_out_of_band", "_write", "outstanding")

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.outstanding = 0
        self._write = write
        self._in_order: deque[PendingRequest | OwnAnswer] = deque()
        self._out_of_band: dict[PendingRequest, int] = {}  # those without a reply, oldest first, with their numbers
        self._number = 0  # of the last out-of-band request

    def add(self, pending: PendingRequest) -> bool:
        """Take a request that was read. Return whether no in-band request and no own answer is before it."""
        is_first = not self._in_order
        self.outstanding += 1
        if pending.oob:
            self._number += 1
            self._out_of_band[pending] = self._number
        else:
            self._in_order.append(pending)
        return is_first

    def settle(self, pending: PendingRequest, reply: bytes) -> None:
        """Take the reply of a request that has none yet."""
        pending.settled = True
        if pending.oob:
            del self._out_of_band[pending]
            self.outstanding -= 1
            self._write(reply)
        else:
            pending.reply = reply
        self._write_ready()

    def answer(self, reply: bytes) -> None:
        """Take an answer that the session has made by itself."""
        self.outstanding += 1
        self._in_order.append(OwnAnswer(reply, self._number))
        self._write_ready()

    @property
    def oldest(self) -> PendingRequest | OwnAnswer | None:
        """The in-band request or own answer whose reply is to be written next."""
        return self._in_order[0] if self._in_order else None

    @property
    def size(self) -> int:
        """Bytes in memory, of the requests and of the replies that wait."""
        return sum(pending.size for pending in self._out_of_band) + sum(map(_size, self._in_order))

    def clear(self) -> list[PendingRequest]:
        """Forget all of them, and return the requests that were not sent to QEMU."""
        unsent = [each for each in self._in_order if not isinstance(each, OwnAnswer) and not each.sent]
        unsent += [pending for pending in self._out_of_band if not pending.sent]
        self._in_order.clear()
        self._out_of_band.clear()
        return unsent

    def _write_ready(self) -> None:
        queue = self._in_order
        while queue:
            head = queue[0]
            reply = head.reply
            if reply is None or (isinstance(head, OwnAnswer) and self._oldest_number <= head.behind):
                return
            queue.popleft()
            self.outstanding -= 1
            self._write(reply)

    @property
    def _oldest_number(self) -> int:
        """The number of the oldest out-of-band request without a reply, or else that of the next one."""
        return next(iter(self._out_of_band.values()), self._number + 1)


def _size(each: PendingRequest | OwnAnswer) -> int:
    return len(each.reply or b"") + (0 if isinstance(each, OwnAnswer) else each.size)
