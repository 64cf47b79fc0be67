"""The gate: survey, judge, then forward or refuse. One operation of a VM at a time, from its survey to QEMU's reply.

An operation passes through these steps; each has the deadline of ``timeout`` but the last, which is QEMU's own:

    turn      it waits for the lock ``turn`` while its client stays. Where that takes too long, it is refused as
              unverified; or, where that rule does not refuse, it waits on: QEMU executes the other operation first.
    survey    QEMU is asked for the facts that the rules need, on the link on which the operation would be sent.
    verdict   the pure policy decides, and the decision is recorded; a refusal ends here.
    forward   the request is sent, in the same step of the event loop as the verdict.
    reply     the lock is held until QEMU has answered, or it is certain that it will not (`Unanswered`).

Invariants:

* What a verdict rests on is still true when QEMU executes the operation: all operations of a VM that could change it
  pass here, one at a time, and there is no await between the last answer and the forward. QEMU executes in-band
  requests in their order (monitor/qmp.c: monitor_qmp_dispatcher_co). Any other change is drift, and is shown.
* A verdict is about the QEMU that is asked: a session ends with its link, and `Surveyor.ask` fails where the link has
  changed. What is remembered goes to the memory that the operation began with.
* The gate fails closed. No answer, an answer that cannot be read, an exception of a rule: the request is refused as
  ``unverified``, with the reason in its text. Nothing but cancellation is raised.
* Where QEMU itself would refuse the request whatever the machine is, it is refused in QEMU's words (`refused_by_qemu`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Unexpected
from qmpguard.policy.drift import Baseline
from qmpguard.policy.facts import Fact, Facts
from qmpguard.policy.hmp.shown import shown
from qmpguard.policy.judgment import concerns
from qmpguard.policy.migration import SNAPSHOTS
from qmpguard.policy.operations import AddDevice, CallUnlisted, OpenBlockNode, Operation, StartMigration
from qmpguard.policy.readers import READERS, read
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.rules import passes_unjudged, unverified_mode
from qmpguard.policy.survey import inquire, observe
from qmpguard.policy.verdict import Verdict, refused_by_qemu, unverified
from qmpguard.proxy.clients.pending import Outcome, Unanswered
from qmpguard.proxy.judging.memory import Memory
from qmpguard.proxy.judging.refusal import refusal_reply, was_accepted
from qmpguard.proxy.judging.surveyor import Surveyor
from qmpguard.proxy.qemu.control import RefusedError
from qmpguard.proxy.state.counters import Durations
from qmpguard.proxy.state.last_seen import LastSeen
from qmpguard.rate import LogRate
from qmpguard.wire.qemu_messages import read_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.device import Device
    from qmpguard.policy.policy import Policy
    from qmpguard.proxy.clients.pending import PendingRequest
    from qmpguard.proxy.judging.schemas import VmSchema
    from qmpguard.proxy.judging.surveyor import AsksQemu
    from qmpguard.proxy.state.recorder import Recorder
    from qmpguard.wire.client_messages import Request
    from qmpguard.wire.qemu_messages import Greeting

log = logging.getLogger(__name__)

#: what a look for drift asks for
LOOK = (Fact.CAPABILITIES, Fact.DEVICES, Fact.DETAILS, Fact.STANDBYS, Fact.RUNSTATE, Fact.MIGRATION)
#: seconds after which the log says that QEMU is busy
BUSY = 2.0


class Gate:
    """Judges the operations of one VM by a policy. ``timeout`` is in seconds, for the turn and the survey together.

    ``given`` are the facts that the configuration tells: the names of the sockets where QEMU is reached and where the
    guard listens, and the network back ends of QEMU's command line. ``on_unanswered`` is called when a question to
    QEMU has timed out.
    """

    def __init__(self, vm: str, policy: Policy, recorder: Recorder, schema: VmSchema, timeout: float) -> None:
        self.policy = policy
        self.given = Facts()
        self.schema = schema
        self.turn = asyncio.Lock()
        self.surveyor = Surveyor()
        self.memory = Memory()
        self.baseline = Baseline()
        self.last_seen = LastSeen(time.time)
        self.surveys = Durations()
        self.on_unanswered: Callable[[], None] = _nothing
        self._vm = vm
        self._recorder = recorder
        self._timeout = timeout
        self._minds_unknown = concerns(CallUnlisted, policy)
        self._rate = LogRate()

    def adopt(self, policy: Policy, timeout: float) -> None:
        """Judge by another policy from now on. A verdict that is under way is finished by the one it began with."""
        self.policy = policy
        self._minds_unknown = concerns(CallUnlisted, policy)
        self._timeout = timeout

    def connect(self, greeting: Greeting, control: AsksQemu) -> None:
        """Ask on a new link from now on."""
        self.surveyor.control = control
        self.schema.connect(greeting, control)

    def disconnect(self) -> None:
        """Ask nobody: the link is gone."""
        self.surveyor.control = None
        self.schema.disconnect()

    def renew(self) -> None:
        """Forget what was true of the last QEMU."""
        self.memory = Memory(self.given.netdevs)
        self.baseline = Baseline()
        self.last_seen = LastSeen(time.time)
        self.schema.forget()

    @property
    def commands(self) -> frozenset[str] | None:
        """The commands of QEMU's schema; None until it was read."""
        return self.schema.commands

    @property
    def known(self) -> Facts:
        """What is remembered, and no survey asks for."""
        return self.memory.facts(self.commands, self.given.own)

    def read(self, request: Request) -> Operation | Unreadable | None:
        """Return what there is to judge about a request; None where it passes without a look at the machine."""
        command = request.command
        if command in READERS:
            reading = read(command, request.arguments or {}, self.policy, self.schema.known)
            return None if isinstance(reading, Harmless) or not concerns(type(reading), self.policy) else reading
        if not self._minds_unknown or (self.commands is not None and passes_unjudged(command, self.commands)):
            return None
        return CallUnlisted(command)

    async def process(
        self, pending: PendingRequest, reading: Operation | Unreadable, forward: Callable[[PendingRequest], None]
    ) -> bytes | None:
        """Forward a request and wait for QEMU's reply, or return the refusal. Raises nothing but cancellation."""
        loop = asyncio.get_running_loop()
        begun, late = loop.time(), None
        deadline = begun + self._timeout
        while not await self._has_turn(pending, None if late else deadline):
            if pending.session.is_closed:
                return None
            late = self._unverified("another operation keeps QEMU busy")
            if late.refusal is not None:
                return self._decide(pending, late, begun)
        try:
            if pending.session.is_closed:
                return None
            memory, control = self.memory, self.surveyor.control
            verdict = late or await self._verdict(pending, reading, deadline)
            refusal = self._decide(pending, verdict, begun)
            if refusal is None and not pending.session.is_closed:
                # no await between the verdict and this: nothing slips in between survey and command
                outcome: asyncio.Future[Outcome] = loop.create_future()
                pending.on_outcome = partial(_set, outcome)
                forward(pending)
                await self._remember(reading, await outcome, memory, control)
            return refusal
        finally:
            self.turn.release()

    async def _has_turn(self, pending: PendingRequest, deadline: float | None) -> bool:
        """Wait for the turn; return whether it came before the deadline, and before the client left."""
        try:
            async with asyncio.timeout_at(deadline) as limit:
                pending.on_outcome = lambda _: limit.reschedule(0)
                return await self.turn.acquire()
        except TimeoutError:
            return False
        finally:
            pending.on_outcome = None

    async def look(self) -> None:
        """Look at the machine for drift, while nothing else is judged. Raises as `Surveyor.ask`, and `TimeoutError`."""
        try:
            async with asyncio.timeout(self._timeout), self.turn:
                ticket = self.baseline.ticket
                # block nodes only once, and when one was opened: QEMU asks their images, which may be far away
                blocks = (Fact.BLOCKS,) if self.last_seen.facts.blocks is None else ()
                self.last_seen.begins()
                facts = await self.surveyor.ask(observe(self.policy, self.known, (*blocks, *LOOK)))
                self._compare(facts, ticket)
        except TimeoutError:
            self.on_unanswered()
            raise

    async def _verdict(self, pending: PendingRequest, reading: Operation | Unreadable, deadline: float) -> Verdict:
        if isinstance(reading, Unreadable):
            return self._unverified(reading.reason)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        about = self._vm, pending.session.peer
        reminder = loop.call_later(BUSY, log.warning, "vm=%s client=%s waiting: QEMU is busy", *about)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._survey(reading)
        except TimeoutError:
            self.on_unanswered()
            return self._unverified(f"QEMU did not answer within {self._timeout:g} s")
        except RefusedError as error:
            return await self._refused(pending, error)
        except UnavailableError as error:
            return self._unverified(str(error))
        except Unexpected as error:
            return self._unverified(f"an answer of QEMU could not be read: {error}")
        except Exception:  # fail closed, whatever it is: the request is refused and the log has the trace
            log.exception("vm=%s client=%s the verdict failed", *about)
            return self._unverified("the verdict failed; the guard's log says how")
        finally:
            reminder.cancel()
            self.surveys.add(loop.time() - begun)

    async def _survey(self, operation: Operation) -> Verdict:
        if isinstance(operation, CallUnlisted) and self.commands is None:
            await self.schema.learn()
        ticket = self.baseline.ticket
        self.last_seen.begins()
        verdict, facts = await self.surveyor.ask(inquire(operation, self.policy, self.known))
        self._compare(facts, ticket)
        return verdict

    async def _refused(self, pending: PendingRequest, error: RefusedError) -> Verdict:
        """Return the verdict where QEMU has refused a question: it may be about to refuse the request likewise."""
        if self.commands is None:
            with suppress(TimeoutError, UnavailableError, Unexpected):
                await self.schema.learn()
        mode = unverified_mode(self.policy)
        same = refused_by_qemu(pending.request.command, error.refusal, self.commands, mode)
        return same or self._unverified(str(error))

    def _compare(self, facts: Facts, ticket: int) -> None:
        self.memory.saw(facts)
        self.last_seen.saw(facts)
        for drift in self.baseline.compare(facts, ticket):
            self._recorder.drifted(drift)

    async def _remember(
        self, reading: Operation | Unreadable, outcome: Outcome, memory: Memory, control: AsksQemu | None
    ) -> None:
        """Take what came of an operation; ``memory`` and ``control`` are of the QEMU that it was sent to."""
        if outcome is Unanswered.NOT_SENT:
            return
        reply = None if isinstance(outcome, Unanswered) else read_reply(outcome)
        memory.on_reply(reading, reply)
        accepted = reply is None or was_accepted(reply)
        match reading:
            case AddDevice(device) if accepted:
                await self._on_added(device, memory, control)
            case StartMigration(start) if reply is not None and accepted and start not in SNAPSHOTS:
                self.last_seen.started()
            case OpenBlockNode() if accepted:
                self.last_seen.opened_block_node()
            case _:
                pass

    async def _on_added(self, device: Device, memory: Memory, control: AsksQemu | None) -> None:
        """Look where a failover primary went: QEMU may hide it. Where that cannot be told, it counts as hidden."""
        if not device.failover_pair_id:
            return
        facts = Facts()
        with suppress(TimeoutError, UnavailableError, Unexpected):
            async with asyncio.timeout(self._timeout):
                facts = await self.surveyor.ask(observe(self.policy, wanted=(Fact.DEVICES, Fact.DETAILS)), control)
        shown = {(found.id, found.failover_pair_id) for found in facts.details or ()}
        if (device.id, device.failover_pair_id) not in shown:
            memory.primaries.add(device)
            if (more := self._rate.admit("hidden", time.monotonic())) is not None:
                log.warning(
                    "vm=%s device=%r is a failover primary that QEMU hides until the guest negotiates%s",
                    *(self._vm, device.label, more),
                )

    def _unverified(self, reason: str) -> Verdict:
        return unverified(reason, unverified_mode(self.policy))

    def _decide(self, pending: PendingRequest, verdict: Verdict, begun: float) -> bytes | None:
        took = asyncio.get_running_loop().time() - begun
        command, hmp = pending.request.command, shown(pending.request.command, pending.request.arguments)
        decision = self._recorder.decided(pending.session.peer, command, verdict, took, hmp)
        return refusal_reply(pending, decision)


def _set(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


def _nothing() -> None:
    pass
