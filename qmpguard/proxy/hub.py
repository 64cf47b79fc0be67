"""One VM: its sessions on its link. Requests go up in turns, replies and events come down, the gate stands between."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.access import Role
from qmpguard.errors import UnavailableError
from qmpguard.policy.drift import CHANGES
from qmpguard.policy.machine import numbers
from qmpguard.policy.observer import judge_observer
from qmpguard.policy.operations import StartMigration
from qmpguard.policy.survey import Unexpected
from qmpguard.proxy.clients.fd_names import TAKES_DESCRIPTOR, FdNames
from qmpguard.proxy.clients.pending import PendingRequest
from qmpguard.proxy.clients.session import Session
from qmpguard.proxy.judging.drift_watch import DriftWatch
from qmpguard.proxy.judging.gate import Gate, refusal_reply
from qmpguard.proxy.judging.overrides import Overrides
from qmpguard.proxy.judging.schemas import Schemas
from qmpguard.proxy.limits import Limits
from qmpguard.proxy.qemu.connections import QemuConnections
from qmpguard.proxy.qemu.heartbeat import Heartbeat
from qmpguard.proxy.qemu.scheduler import Scheduler
from qmpguard.proxy.sockets.budget import Budget
from qmpguard.proxy.sockets.stream import FAILED, Outbox, Stream
from qmpguard.proxy.state.counters import NOT_ALLOWED, TOO_MANY
from qmpguard.proxy.state.recorder import Recorder
from qmpguard.proxy.state.snapshot import Snapshot, take
from qmpguard.rate import LogRate
from qmpguard.record import Peer, Run
from qmpguard.tasks import Tasks
from qmpguard.wire.client_messages import error_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qmpguard.address import QemuAddress
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.readers import Unreadable
    from qmpguard.policy.schema import Schema
    from qmpguard.proxy.qemu.link import Link
    from qmpguard.wire.client_messages import Request
    from qmpguard.wire.qemu_messages import Greeting, QemuEvent

log = logging.getLogger(__name__)


class Hub:
    """The sessions of one VM on one link."""

    def __init__(
        self,
        name: str,
        address: QemuAddress,
        policy: Policy,
        limits: Limits | None = None,
        schemas: Schemas | None = None,
        run: Run | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.name = name
        self.budget = budget or Budget()
        self.schemas = schemas or Schemas()
        self.limits = limits or Limits()
        self.recorder = recorder = Recorder(name, run or Run())
        self.counts, self.journal = recorder.counts, recorder.journal
        self.connected = asyncio.Event()
        self.drained = asyncio.Event()  # the last client has left
        self.sessions: set[Session] = set()
        self._count = 0  # of the sessions that are clients
        self._refused = LogRate()
        self._tasks = Tasks(f"vm={name}", self.counts.faults)
        self.outbox = Outbox(self.budget.grew, lambda error: self._tasks.record("stream", error))
        self.link: Link | None = None
        self.heartbeat = Heartbeat(name, self._revived)
        self.gate = Gate(
            policy,
            recorder.decided,
            recorder.drifted,
            self._learn,
            self.unanswered,
            timeout=self.limits.survey_timeout,
            vm=name,
        )
        self.overrides = Overrides(name, policy, self._judge_by, recorder.happened)
        self.watch = DriftWatch(self.gate, name, self.limits.watch)
        self.connections = QemuConnections(self, address)
        self._scheduler = Scheduler(self._intercepted, self._unsendable)
        self._holds = FdNames()
        self._unserved = True  # no client of this link had a reply yet
        self.traffic: Callable[[str, Peer, Request], None] | None = None  # who writes every request down
        self.remarks: Sequence[Callable[[], str]] = ()  # what else should be known of the guard; empty: nothing

    def adopt(self, policy: Policy, limits: Limits) -> None:
        """Follow another policy and other limits from now on; clients that are here stay."""
        self.limits = limits
        self.watch.adopt(limits.watch)
        self.overrides.base = policy
        self._judge_by(self.overrides.policy)

    def _judge_by(self, policy: Policy) -> None:
        self.gate.adopt(policy, self.limits.survey_timeout)

    # the life of links

    async def run(self) -> None:
        """Keep a link to QEMU and serve the sessions on it, until cancelled."""
        self.budget.watch(self.sessions)
        try:
            async with Tasks(f"vm={self.name}", self.counts.faults) as self._tasks:
                await self.connections.run(self._tasks)
        finally:
            self.overrides.close()
            for session in tuple(self.sessions):
                session.close("the guard stops")
            self.outbox.hangups.close()
            self.budget.forget(self.sessions)

    def up(self, link: Link, own: socket.socket) -> None:
        """Serve clients on a link from now on, and the guard's own session at ``own``."""
        self.link = self._scheduler.link = link
        self.heartbeat.alive = True
        self._holds = FdNames()
        self._unserved = True
        self.gate.version = numbers(link.greeting.version)
        self.recorder.up(link.greeting.version)
        self.attach(own, Peer(0), privileged=True)
        for session in tuple(self.sessions):
            session.greet(link.greeting)
        self.connected.set()

    def link_lost(self, reason: str) -> None:
        """Close every session as QEMU's death would close them: each is sent first what QEMU has said."""
        self.recorder.down(reason)
        self.link = self.gate.control = None
        self._scheduler.clear()
        for session in tuple(self.sessions):
            self._contain(session, partial(session.finish, "QEMU is gone"))
        self.connections.lost()

    def unanswered(self) -> None:
        """Called when one of the guard's own questions has timed out: end a link on which QEMU has skipped one.

        A QEMU that is merely busy answers later, in order. One that has answered later requests never will.
        """
        if self.link is not None and (command := self.link.skipped) is not None:
            self.link.lose(f"QEMU did not answer {command}, though it answered later requests")

    def _revived(self) -> None:
        """Called when QEMU's heartbeat is back."""
        with self.outbox:
            for session in self.clients:
                session.proceed()

    @property
    def greeting(self) -> Greeting | None:
        """QEMU's greeting; None while there is no link."""
        return self.link.greeting if self.link else None

    # sessions

    def quiesce(self) -> None:
        """Read no more from clients; what was received is still answered."""
        for session in self.clients:
            session.hush()
        self._note_drained()

    def snapshot(self) -> Snapshot:
        """Return all that is known of the VM, from memory."""
        return take(self)

    @property
    def clients(self) -> list[Session]:
        """The sessions but for the guard's own."""
        return [session for session in self.sessions if not session.privileged]

    def _note_drained(self) -> None:
        if not self._count:
            self.drained.set()

    def attach(self, sock: socket.socket, peer: Peer, *, privileged: bool = False) -> None:
        """Begin a conversation on a connected socket, with QEMU's greeting as soon as there is one."""
        if not privileged and (refusal := self._refusal(peer)) is not None:
            if (more := self._refused.admit(refusal, time.monotonic())) is not None:
                log.warning("vm=%s client=%s refused: %s%s", self.name, peer, refusal, more)
            sock.close()
            return
        stream = Stream(sock, self.outbox, limit=self.limits.max_unread)
        size, now = self.limits.max_request, time.time()
        session = Session(self, stream, peer, max_request=size, privileged=privileged, since=now)
        self.sessions.add(session)
        self.drained.clear()
        if not privileged:
            self._count += 1
            self.counts.clients += 1
            log.info("vm=%s client=%s connected", self.name, peer)
        if self.link is not None:
            session.greet(self.link.greeting)
        else:
            session.wait(self.limits.greeting_wait)

    def _refusal(self, peer: Peer) -> str | None:
        """Return why a client cannot come in; None where it can."""
        if self._count >= self.limits.max_clients:
            self.counts.drops[TOO_MANY] += 1
            return f"{self.limits.max_clients} clients already"
        if (reason := self.limits.access.refusal(peer)) is not None:
            self.counts.drops[NOT_ALLOWED] += 1
        return reason

    def departed(self, session: Session, reason: str, unsent: list[PendingRequest]) -> None:
        """Forget a session that has closed, and its requests that were not sent."""
        self.sessions.discard(session)
        self._holds.departed(session, unsent)
        self._scheduler.departed(session, unsent)
        if not session.privileged:
            self._count -= 1
            self.counts.departed(reason)
            log.info("vm=%s client=%s closed reason=%r", self.name, session.peer, reason)
        elif self.link is not None:
            # nothing could be judged any more
            self.link.lose("the guard's own session has ended")
        self._note_drained()

    @property
    def offered(self) -> frozenset[str]:
        """The capabilities that QEMU's greeting offers."""
        return self.link.greeting.offered if self.link else frozenset()

    @property
    def is_alive(self) -> bool:
        """Say whether QEMU answers, as far as the heartbeat can tell."""
        return self.heartbeat.alive

    # faults, each kept to the session that it is about

    def _contain(self, session: Session, work: Callable[[], None]) -> None:
        """Do something for one session; an exception closes it, and concerns no other."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 -- whatever it is
            self._fault(session, error)

    def _fault(self, session: Session, error: Exception) -> None:
        self._tasks.record("session", error)
        self._tasks.guard("session", lambda _: session.close(FAILED), error)

    def _unsendable(self, pending: PendingRequest, error: Exception) -> None:
        """Called when a request could not be encoded for QEMU."""
        self._fault(pending.session, error)

    # requests on their way up

    def submit(self, session: Session) -> None:
        """Give a session with requests to send its place in the turns."""
        self._scheduler.submit(session)

    def submit_oob(self, pending: PendingRequest) -> None:
        """Send an out-of-band request past the window, unless it is one to be judged."""
        self._scheduler.submit_oob(pending)

    def _intercepted(self, pending: PendingRequest) -> bool:
        """Hand a request to the gate if it is one to be judged. What fails here is refused, and goes no further."""
        try:
            return self._intercept(pending)
        except Exception as error:  # noqa: BLE001 -- fail closed, whatever it is: the log has the trace
            self._tasks.record("intercept", error)
            self._refuse(pending)
            return True

    def _intercept(self, pending: PendingRequest) -> bool:
        request = pending.request
        assert request is not None
        if self.traffic is not None:
            self.traffic(self.name, pending.session.peer, request)
        if (refusal := self._barred(pending, request)) is not None:
            pending.drop_descriptor()
            pending.session.settle(pending, refusal)
            return True
        reading = self.gate.read(request)
        if reading is None:
            self.counts.passed += 1
            if request.command in CHANGES:
                self._changes(request)
            return False
        if not request.oob:
            pending.session.holder = pending
        self._tasks.start("judgment", self._judge(pending, reading), lambda error: self._refuse(pending))
        return True

    def _refuse(self, pending: PendingRequest) -> None:
        """Refuse a request about which the guard itself has failed; one that was sent is answered by QEMU."""
        if pending.sent:
            return
        pending.discard()
        with self.outbox:
            self._scheduler.release(pending)
            pending.session.settle(pending, error_reply(FAILED, pending.id))

    def _barred(self, pending: PendingRequest, request: Request) -> bytes | None:
        """Return the refusal of what this client may not ask, whatever QEMU's machine is; None where it may."""
        if self.limits.role is Role.OBSERVER and (refusal := self._observed(pending, request)) is not None:
            return refusal
        return self._holds.refusal(pending) if request.command in TAKES_DESCRIPTOR else None

    def _observed(self, pending: PendingRequest, request: Request) -> bytes | None:
        """Return the refusal of what an observer may not ask; None for a query."""
        verdict = judge_observer(request.command, request.arguments or {}, self.gate.commands)
        if verdict.refusal is None:
            return None
        return refusal_reply(pending, self.recorder.decided(pending, verdict, 0.0))

    def _changes(self, request: Request) -> None:
        """Keep what a request is about to change from being taken for drift."""
        if self.gate.baseline.begins(request.command, request.arguments or {}):
            self.watch.soon()

    async def _judge(self, pending: PendingRequest, reading: Operation | Unreadable) -> None:
        begun = time.monotonic()
        refusal = await self.gate.process(pending, reading, self._forward)
        self.counts.commands.add(time.monotonic() - begun)
        if isinstance(reading, StartMigration):
            self.watch.soon()
        pending.drop_descriptor()  # where it was not sent: refused, or its client has left
        with self.outbox:
            if refusal is not None:
                self._scheduler.release(pending)
                pending.session.settle(pending, refusal)

    def _forward(self, pending: PendingRequest) -> None:
        assert pending.request is not None
        with self.outbox:
            self._changes(pending.request)
            self._scheduler.submit_judged(pending)

    # what comes down

    def answered(self, pending: PendingRequest, message: bytes, reply: bytes) -> None:
        """Give a reply to the session that asked, and to the verdict that waits for it."""
        pending.conclude(message)
        assert pending.request is not None
        if pending.request.command in CHANGES:
            self.gate.baseline.ends(pending.request.command, pending.request.arguments or {})
        if self._holds.attentive:
            self._holds.answered(pending, message)
        try:
            pending.session.settle(pending, reply)
        except Exception as error:  # noqa: BLE001 -- it concerns no other session
            self._fault(pending.session, error)
        self._scheduler.answered(pending)
        if self._unserved and not pending.session.privileged:
            self._served()

    def happened(self, event: QemuEvent) -> None:
        """Give an event to every negotiated session."""
        if self.gate.baseline.happened(event.name, event.data):
            self.watch.soon()
        for session in tuple(self.sessions):
            self._contain(session, partial(session.event, event.line))
        self.recorder.event(event)
        if self.gate.last_seen.happened(event):
            self.watch.soon()

    def _served(self) -> None:
        """Read QEMU's schema when the first client has been served, so that nobody waits for it."""
        self._unserved = False
        if self.gate.commands is None:
            self._tasks.start("schema", self._learn_soon())

    async def _learn_soon(self) -> None:
        learnt = False
        try:
            async with self.schemas.turn:  # each one is 200 KB to parse; who needs one for a verdict does not wait
                learnt = await self._learned()
        finally:
            self._unserved = not learnt  # another client's request will be the next chance

    async def _learned(self) -> bool:
        try:
            await self._learn()
        except (TimeoutError, UnavailableError, Unexpected) as error:
            log.info("vm=%s the schema was not read: %s", self.name, str(error) or "QEMU did not answer in time")
            return False
        return True

    async def _learn(self) -> Schema:
        link, control = self.link, self.gate.control
        if link is None or control is None:
            raise UnavailableError("QEMU went away")
        schema = await self.schemas.learn(link.greeting, control)
        if link is self.link:
            self.gate.schema, self.gate.commands = schema, schema.commands
        return schema
