"""The gate: survey, judge, then forward or refuse. One operation of a VM at a time, from survey to QEMU's reply."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

from qmpguard.errors import UnavailableError
from qmpguard.policy.drift import Baseline, Drift
from qmpguard.policy.judgment import concerns
from qmpguard.policy.machine import SNAPSHOTS, Device, Fact, Facts
from qmpguard.policy.operations import (
    AddDevice,
    CallUnlisted,
    OpenBlockNode,
    OpenMonitor,
    Operation,
    SetCapabilities,
    StartMigration,
)
from qmpguard.policy.qemu_check import seen_in
from qmpguard.policy.readers import READERS, Harmless, Unreadable, read
from qmpguard.policy.rules import passes_unjudged, unverified_mode
from qmpguard.policy.stale_capabilities import StaleCapabilities
from qmpguard.policy.survey import Answer, Query, Unexpected, inquire, observe
from qmpguard.policy.verdict import MAX_TEXT, Verdict, refused_by_qemu, unverified
from qmpguard.proxy.clients.pending import Unanswered
from qmpguard.proxy.qemu.control import RefusedError
from qmpguard.proxy.state.counters import Durations
from qmpguard.proxy.state.last_seen import LastSeen
from qmpguard.rate import LogRate
from qmpguard.wire.client_messages import error_reply, success_reply
from qmpguard.wire.qemu_messages import Reply, read_reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from qmpguard.policy.policy import Policy
    from qmpguard.policy.schema import Schema
    from qmpguard.proxy.clients.pending import PendingRequest
    from qmpguard.record import Decision
    from qmpguard.wire.client_messages import Request

T = TypeVar("T")

log = logging.getLogger(__name__)

#: seconds that an operation waits for its turn and for QEMU's answers before it is refused as unverified
SURVEY_TIMEOUT = 60.0
#: what a look for drift asks for
LOOK = (Fact.CAPABILITIES, Fact.DEVICES, Fact.DETAILS, Fact.STANDBYS, Fact.RUNSTATE, Fact.MIGRATION)
#: ways around the guard that are named; one is as bad as many
MAX_WAYS = 8
#: seconds after which the log says that QEMU is busy
BUSY = 2.0


class AsksQemu(Protocol):
    """The guard's own session with QEMU."""

    async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        """Return QEMU's answers in order. Raises `UnavailableError` when there are none."""
        ...


class Gate:
    """Judges the operations of one VM. ``timeout`` is in seconds, for the turn and the survey together."""

    def __init__(
        self,
        policy: Policy,
        record: Callable[[PendingRequest, Verdict, float], Decision],
        drifted: Callable[[Drift], None],
        learn: Callable[[], Awaitable[Schema]],
        unanswered: Callable[[], None],
        *,
        timeout: float = SURVEY_TIMEOUT,
        vm: str = "",
    ) -> None:
        self.policy = policy
        self._vm = vm  # its name, for the log
        self.control: AsksQemu | None = None  # of the present link
        self._minds_unknown = concerns(CallUnlisted, policy)
        self.commands: frozenset[str] | None = None  # those of QEMU's schema, once it is read
        self.schema: Schema | None = None  # likewise
        self.confirmed: frozenset[str] = frozenset()  # rules that this QEMU was seen to enforce by itself
        self.own: frozenset[str] = frozenset()  # the sockets where QEMU is reached and the guard listens, by name
        self.ways_around: tuple[str, ...] = ()  # what was let through and opened one; none can be taken back
        self.version: tuple[int, ...] | None = None  # of the present QEMU
        self.baseline = Baseline()
        self.turn = asyncio.Lock()
        self.primaries = Primaries()
        self.stale = StaleCapabilities()
        self.last_seen = LastSeen(time.time)
        self.surveys = Durations()
        self._rate = LogRate()
        self._asking: float | None = None  # since when, while QEMU has a question to answer
        self._record = record
        self._drifted = drifted
        self._learn = learn  # sets `commands`
        self._unanswered = unanswered  # is told when a question has timed out
        self._timeout = timeout

    def adopt(self, policy: Policy, timeout: float) -> None:
        """Judge by another policy from now on. A verdict that is under way is finished by the one it began with."""
        self.policy = policy
        self._minds_unknown = concerns(CallUnlisted, policy)
        self._timeout = timeout

    async def process(
        self, pending: PendingRequest, reading: Operation | Unreadable, forward: Callable[[PendingRequest], None]
    ) -> bytes | None:
        """Forward a request and wait for QEMU's reply, or return the refusal. Raises nothing but cancellation.

        A session ends with its link, so while it is there, the link that is asked is the one that is forwarded to.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        deadline = begun + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                await self.turn.acquire()
        except TimeoutError:
            return self._decide(pending, self._unverified("another operation keeps QEMU busy"), begun)
        try:
            if pending.session.is_closed:
                return None
            memory = self.primaries, self.control
            verdict = await self._verdict(pending, reading, deadline)
            refusal = self._decide(pending, verdict, begun)
            if refusal is None and not pending.session.is_closed:
                # no await between the verdict and this: nothing slips in between survey and command
                pending.outcome = loop.create_future()
                forward(pending)
                outcome = await pending.outcome
                if outcome is not Unanswered.NOT_SENT:
                    reply = None if isinstance(outcome, Unanswered) else read_reply(outcome)
                    await self._remember(reading, reply, *memory)
            return refusal
        finally:
            self.turn.release()

    async def look(self) -> None:
        """Look at the machine for drift, while nothing else is judged. Raises as `ask` does, and `TimeoutError`."""
        try:
            async with asyncio.timeout(self._timeout), self.turn:
                ticket = self.baseline.ticket
                # block nodes only once, and when one was opened: QEMU asks their images, which may be far away
                blocks = (Fact.BLOCKS,) if self.last_seen.facts.blocks is None else ()
                facts = await self.ask(observe(self.policy, self.memory, (*blocks, *LOOK)))
                self._compare(facts, ticket)
        except TimeoutError:
            self._unanswered()
            raise

    def read(self, request: Request) -> Operation | Unreadable | None:
        """Return what there is to judge about a request; None where it passes without a look at the machine."""
        command = request.command
        if command in READERS:
            reading = read(command, request.arguments or {}, self.policy, self.schema)
            return None if isinstance(reading, Harmless) or not concerns(type(reading), self.policy) else reading
        if not self._minds_unknown or (self.commands is not None and passes_unjudged(command, self.commands)):
            return None
        return CallUnlisted(command)

    def renew(self) -> None:
        """Forget what was true of the last QEMU."""
        self.primaries = Primaries()
        self.stale = StaleCapabilities()
        self.baseline = Baseline()
        self.last_seen = LastSeen(time.time)
        self.confirmed = frozenset()
        self.ways_around = ()
        self.commands = self.schema = None

    async def ask(self, questions: Generator[tuple[Query, ...], tuple[Answer, ...], T]) -> T:
        """Drive a survey's questions to their end; raises what the control session and the survey raise.

        All of them are asked on one link: raises `UnavailableError` when that is gone.
        """
        return await self._ask(questions, self.control)

    async def _ask(self, questions: Generator[tuple[Query, ...], tuple[Answer, ...], T], control: AsksQemu | None) -> T:
        self._asking = time.monotonic()
        self.last_seen.begins()
        try:
            queries = next(questions)
            while True:
                answers = await control.ask(queries) if control is not None else ()
                if control is None or control is not self.control:
                    raise UnavailableError("QEMU went away")
                queries = questions.send(answers)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            self._asking = None

    @property
    def waits_for(self) -> float:
        """For how many seconds QEMU has been owing an answer; 0 when it owes none."""
        return 0.0 if self._asking is None else time.monotonic() - self._asking

    async def _verdict(self, pending: PendingRequest, reading: Operation | Unreadable, deadline: float) -> Verdict:
        if isinstance(reading, Unreadable):
            return self._unverified(reading.reason)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        about = self._vm, pending.session.peer
        reminder = loop.call_later(BUSY, log.warning, "vm=%s client=%s waiting: QEMU is busy", *about)
        try:
            async with asyncio.timeout_at(deadline):
                if isinstance(reading, CallUnlisted) and self.commands is None:
                    await self._learn()
                ticket = self.baseline.ticket
                verdict, facts = await self.ask(inquire(reading, self.policy, self.memory))
                self._compare(facts, ticket)
                return verdict
        except TimeoutError:
            self._unanswered()
            return self._unverified(f"QEMU did not answer within {self._timeout:g} s")
        except RefusedError as error:
            return await self._refused(pending, error)
        except UnavailableError as error:
            return self._unverified(str(error))
        except Unexpected as error:
            return self._unverified(f"an answer of QEMU could not be read: {error}")
        except Exception:  # fail closed, whatever it is: the request is refused and the log has the trace
            log.exception("vm=%s client=%s the verdict failed", self._vm, pending.session.peer)
            return self._unverified("the verdict failed; the guard's log says how")
        finally:
            reminder.cancel()
            self.surveys.add(loop.time() - begun)

    async def _refused(self, pending: PendingRequest, error: RefusedError) -> Verdict:
        """Return the verdict where QEMU has refused a question: it may be about to refuse the request likewise."""
        assert pending.request is not None
        if self.commands is None:
            with suppress(TimeoutError, UnavailableError, Unexpected):
                await self._learn()
        mode = unverified_mode(self.policy)
        same = refused_by_qemu(pending.request.command, error.refusal, self.commands, mode)
        return same or self._unverified(str(error))

    @property
    def memory(self) -> Facts:
        """What is remembered, and no survey asks for."""
        return Facts(
            hidden=self.primaries.hidden,
            commands=self.commands,
            left_on=self.stale.left_on,
            confirmed=self.confirmed,
            own=self.own,
            version=self.version,
        )

    def _compare(self, facts: Facts, ticket: int) -> None:
        self.primaries.hidden = facts.hidden
        self.stale.saw(facts)
        self.last_seen.saw(facts)
        for drift in self.baseline.compare(facts, ticket):
            self._drifted(drift)

    async def _remember(
        self, reading: Operation | Unreadable, reply: Reply | None, primaries: Primaries, control: AsksQemu | None
    ) -> None:
        """Take what QEMU's reply tells for the next verdicts.

        ``primaries`` and ``control`` are of the QEMU that the request was sent to. Where the link was lost before the
        reply, or the reply could not be read (None), the request may have been accepted.
        """
        match reading:
            case AddDevice(device) if reply is None or was_accepted(reply):
                if reply is not None:
                    primaries.forget(device.id)
                if device.failover_pair_id is not None:
                    await self._look_for(device, primaries, control)
            case StartMigration(start) if reply is not None and start not in SNAPSHOTS:
                if was_accepted(reply):
                    self.stale.started()
                    self.last_seen.started()
                else:
                    self.confirmed |= seen_in(reply.text)
            case OpenBlockNode() if reply is None or was_accepted(reply):
                self.last_seen.opened_block_node()
            case SetCapabilities(states):
                self.stale.switched_on(name for name, state in states if state)
            case OpenMonitor(how) if reply is None or was_accepted(reply):
                self.ways_around = tuple(dict.fromkeys((*self.ways_around, how[:MAX_TEXT])))[:MAX_WAYS]
            case _:
                pass

    async def _look_for(self, device: Device, primaries: Primaries, control: AsksQemu | None) -> None:
        """Look where a failover primary went: it may be kept out of sight. Where nobody can tell, it counts as that."""
        facts = Facts()
        with suppress(TimeoutError, UnavailableError, Unexpected):
            async with asyncio.timeout(self._timeout):
                facts = await self._ask(observe(self.policy, wanted=(Fact.DEVICES,)), control)
        if device.id not in {found.id for found in facts.devices or ()}:
            primaries.add(device)
            if (more := self._rate.admit("hidden", time.monotonic())) is not None:
                log.warning(
                    "vm=%s device=%r is a failover primary that QEMU hides until the guest negotiates%s",
                    *(self._vm, device.label, more),
                )

    def _unverified(self, reason: str) -> Verdict:
        return unverified(reason, unverified_mode(self.policy))

    def _decide(self, pending: PendingRequest, verdict: Verdict, begun: float) -> bytes | None:
        decision = self._record(pending, verdict, asyncio.get_running_loop().time() - begun)
        return refusal_reply(pending, decision)


class Primaries:
    """The failover primaries that QEMU has accepted and keeps out of QOM. No event will ever tell of them."""

    def __init__(self) -> None:
        self.hidden: tuple[Device, ...] = ()

    def add(self, device: Device) -> None:
        """Remember one, in place of an earlier one with its id."""
        self.forget(device.id)
        self.hidden = (*self.hidden, device)

    def forget(self, identity: str | None) -> None:
        """Forget the one with an id, which QEMU has given away again."""
        self.hidden = tuple(device for device in self.hidden if device.id != identity)


def refusal_reply(pending: PendingRequest, decision: Decision) -> bytes | None:
    """Return a refusal in the form of the command; None where nothing was refused.

    A line of HMP fails as text in a successful reply, as in QEMU, unless QEMU would not come to look at the line.
    """
    request, finding = pending.request, decision.verdict.refusal
    if finding is None:
        return None
    if request is not None and request.command == "human-monitor-command" and not finding.problem.as_qemu:
        line = (request.arguments or {}).get("command-line")
        if isinstance(line, str):  # else QEMU would answer with an error of QMP
            return success_reply(f"Error: {decision.text}\r\n", pending.id)
    return error_reply(decision.text, pending.id, kind=finding.problem.error_class)


def was_accepted(reply: Reply) -> bool:
    """Say whether QEMU's reply is a success, and for HMP that no line of its text is an error.

    HMP prints warnings before the error (util/error-report.c).
    """
    return reply.accepted and not any(line.startswith("Error") for line in reply.text.splitlines())
