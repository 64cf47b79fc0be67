"""The guard's own session with QEMU, which asks the survey's questions.

To the hub it is a session as a client's is, with two differences. It has no socket: its requests go to the hub as they
are, and QEMU's answers come back as the outcome of each request. And it is privileged: its requests are not judged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from json import JSONDecoder
from typing import TYPE_CHECKING, Protocol, TypeAlias

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Answer, Missing, Query
from qmpguard.policy.problem import Refusal
from qmpguard.proxy.clients.pending import PendingRequest, Unanswered
from qmpguard.proxy.closing import CloseReason
from qmpguard.record import Peer
from qmpguard.wire.client_messages import Request
from qmpguard.wire.qemu_messages import has_too_many_values

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from qmpguard.proxy.clients.pending import Outcome, Requester

#: bytes of the longest answer that is read; QEMU's largest is its schema, a quarter of a megabyte
MAX_ANSWER = 10 << 20
_HEARTBEAT = Query("query-yank")
_decode = JSONDecoder().decode


class RefusedError(UnavailableError):
    """QEMU has refused a question."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"QEMU refused {refusal.command}: {refusal.text}")
        self.refusal = refusal


class Requests(Protocol):
    """The hub, as the guard's own session sees it."""

    @property
    def outbox(self) -> AbstractContextManager[None]:
        """What is sent within it leaves together."""
        ...

    def submit(self, session: Requester) -> None:
        """Called when the session has in-band requests to send."""
        ...

    def submit_oob(self, pending: PendingRequest) -> None:
        """Take an out-of-band request."""
        ...

    def on_session_closed(
        self, session: Requester, reason: CloseReason, detail: str, unsent: list[PendingRequest]
    ) -> None:
        """Called when the session has closed, with those of its requests that were not sent."""
        ...


#: the answers to a burst, or why there are none
Answers: TypeAlias = tuple[Answer, ...] | UnavailableError


class Burst:
    """Questions that are sent together. ``answers`` is set when all are answered, or one is not.

    ``owed`` is the number of those that QEMU may still answer.
    """

    __slots__ = ("_found", "_queries", "answers", "owed")

    def __init__(self, queries: tuple[Query, ...]) -> None:
        self.answers: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        self.owed = len(queries)
        self._queries = queries
        self._found: list[Answer] = [None] * len(queries)
        if not queries:
            self.answers.set_result(())

    def take(self, place: int, outcome: Outcome) -> None:
        """Take what came of a question."""
        self.owed -= 1
        if self.answers.done():
            return
        answer = _gone() if isinstance(outcome, Unanswered) else read_answer(self._queries[place], outcome)
        if isinstance(answer, UnavailableError):
            self.answers.set_result(answer)
            return
        self._found[place] = answer
        if not self.owed:
            self.answers.set_result(tuple(self._found))

    def fail(self) -> None:
        """Expect no more answers."""
        if not self.answers.done():
            self.answers.set_result(_gone())


class Control:
    """Asks one QEMU questions over one link. What is asked here can never reach the QEMU of another link."""

    privileged = True

    def __init__(self, hub: Requests) -> None:
        self.peer = Peer(0)
        self.todo: deque[PendingRequest] = deque()
        self.holder: PendingRequest | None = None
        self._hub = hub
        self._closed = False
        self._bursts: dict[Burst, None] = {}  # that are waited for
        self._abandoned: Burst | None = None  # the last one that took too long
        self._beat: Burst | None = None  # the last heartbeat

    async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        """Return QEMU's answers, in order; the questions are sent in one burst.

        While QEMU still owes the answers to an earlier burst, they are sent one after the other: an abandoned question
        takes a place in the window that clients need. The caller sets the limit. Raises `UnavailableError` when QEMU
        goes away, refuses a question that is not optional, or answers what cannot be read.
        """
        if self._abandoned is None or not self._abandoned.owed:
            return await self._put(queries)
        return tuple([answer for query in queries for answer in await self._put((query,))])

    async def answers_out_of_band(self) -> bool:
        """Ask what QEMU answers even while its main loop is busy (``query-yank``).

        A question that QEMU still owes an answer is not asked again: a QEMU may be stopped for days.
        """
        if self._closed:
            return False
        if self._beat is None or not self._beat.owed:
            self._beat = Burst((_HEARTBEAT,))
            self._send((_HEARTBEAT,), self._beat, oob=True)
        return not isinstance(await asyncio.shield(self._beat.answers), UnavailableError)

    async def _put(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        if self._closed:
            raise _gone()
        burst = Burst(queries)
        self._bursts[burst] = None
        try:
            self._send(queries, burst)
            answers = await burst.answers
        except asyncio.CancelledError:
            self._abandoned = burst
            raise
        finally:
            self._bursts.pop(burst, None)
        if isinstance(answers, UnavailableError):
            raise answers
        return answers

    def _send(self, queries: tuple[Query, ...], burst: Burst, *, oob: bool = False) -> None:
        with self._hub.outbox:
            for place, query in enumerate(queries):
                pending = PendingRequest(self, Request(query.command, dict(query.arguments) or None, None, oob))
                pending.on_outcome = partial(burst.take, place)
                if oob:
                    self._hub.submit_oob(pending)
                else:
                    self.todo.append(pending)
            if not oob:
                self._hub.submit(self)

    # called by the hub

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is asked."""
        return self._closed

    def settle(self, pending: PendingRequest, reply: bytes) -> None:
        """Do nothing: the answer was taken as the outcome of the request."""

    def close(self, reason: CloseReason = CloseReason.ENDED, detail: str = "") -> None:
        """Ask and answer nothing more; the link does not last longer than this."""
        if self._closed:
            return
        self._closed = True
        unsent = list(self.todo)
        self.todo.clear()
        self._hub.on_session_closed(self, reason, detail, unsent)
        for burst in self._bursts:
            burst.fail()
        if self._beat is not None:
            self._beat.fail()


def read_answer(query: Query, message: bytes) -> Answer | UnavailableError:
    """Return QEMU's answer to a question, or why it is none. Never raises."""
    try:
        is_long = len(message) > MAX_ANSWER or has_too_many_values(message)
        members = None if is_long else _decode(message.decode())
    except (ValueError, RecursionError):
        members = None
    match members:
        case {"return": value}:
            return value  # type: ignore[no-any-return]
        case {"error": {"class": str(), "desc": str()}} if query.optional:
            return Missing()
        case {"error": {"class": str(kind), "desc": str(text)}}:
            return RefusedError(Refusal(query.command, kind, text))
        case _:
            return UnavailableError(f"QEMU's answer to {query.command} could not be read")


def _gone() -> UnavailableError:
    return UnavailableError("QEMU went away")
