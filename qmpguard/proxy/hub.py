"""One VM: its sessions on its link. Requests go up in turns, replies and events come down, the gate stands between."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.access import OPEN, Access, Role
from qmpguard.address import FdAddress
from qmpguard.errors import UnavailableError
from qmpguard.policy.drift import CHANGES, Drift
from qmpguard.policy.observer import judge_observer
from qmpguard.policy.operations import StartMigration
from qmpguard.policy.survey import Unexpected
from qmpguard.proxy.budget import Budget
from qmpguard.proxy.control import Control
from qmpguard.proxy.counts import NOT_ALLOWED, TOO_MANY, Counts
from qmpguard.proxy.dealer import Dealer
from qmpguard.proxy.gate import SURVEY_TIMEOUT, Gate, refusal_reply
from qmpguard.proxy.handover import Handover, Inheritance
from qmpguard.proxy.heartbeat import Heartbeat
from qmpguard.proxy.link import MAX_UNSENT, Link
from qmpguard.proxy.overrides import Overrides
from qmpguard.proxy.passing import TAKES_DESCRIPTOR, Holds
from qmpguard.proxy.schemas import Schemas
from qmpguard.proxy.session import Session
from qmpguard.proxy.slot import Slot
from qmpguard.proxy.snapshot import LinkState, Snapshot, take
from qmpguard.proxy.stream import Outbox, Stream
from qmpguard.proxy.upstream import negotiate, reach, whose
from qmpguard.proxy.watch import IDLE, Watch
from qmpguard.record import Decision, Event, Journal, LinkChange, Peer, Run
from qmpguard.wire.framing import MAX_REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qmpguard.address import QemuAddress
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.readers import Unreadable
    from qmpguard.policy.schema import Schema
    from qmpguard.policy.verdict import Verdict
    from qmpguard.record import Entry, Happening
    from qmpguard.wire.messages import Request
    from qmpguard.wire.replies import Greeting

log = logging.getLogger(__name__)

#: bytes that a client may leave unread before it is disconnected; QEMU's largest reply is a sixtieth of it
MAX_UNREAD = 16 << 20
#: clients of one VM at once
MAX_CLIENTS = 1024
#: seconds that a client waits for QEMU to appear before it is sent away
GREETING_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one VM's clients may use, and who they may be. Times are in seconds, sizes in bytes.

    ``watch`` 0: no look between surveys.
    """

    survey_timeout: float = SURVEY_TIMEOUT
    max_request: int = MAX_REQUEST
    max_unread: int = MAX_UNREAD
    max_clients: int = MAX_CLIENTS
    greeting_wait: float = GREETING_WAIT
    watch: float = IDLE
    access: Access = OPEN
    role: Role = Role.OPERATOR


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
        self.counts = Counts()
        self.journal = Journal(name, run or Run())
        self.standing = LinkState(up=False, since=time.time(), reason="QEMU has not appeared yet")
        self.last_drift: Entry | None = None
        self.connected = asyncio.Event()
        self.drained = asyncio.Event()  # the last client has left
        self.sessions: set[Session] = set()
        self.outbox = Outbox(self.budget.grew)
        self.link: Link | None = None
        self.heartbeat = Heartbeat(name)
        self.gate = Gate(policy, self._record, self._drifted, self._learn, timeout=self.limits.survey_timeout)
        self.overrides = Overrides(name, policy, self._judge_by, self._happened)
        self.watch = Watch(self.gate, name, self.limits.watch)
        self._address = address
        self._qemu: tuple[int, ...] | None = None  # which one the link is with
        self._gone = asyncio.Event()
        self._own: list[asyncio.Task[None]] = []  # the guard's own work on the link
        self._sock: socket.socket | None = None  # the link's
        self._inheritance: Inheritance | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._dealer = Dealer(self._intercepted)
        self._holds = Holds()
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
            async with asyncio.TaskGroup() as self._tasks, aclosing(reach(self._address)) as sockets:
                if (left := self._inheritance) is not None:
                    self._inheritance = None
                    await self._serve(left.sock, left.handover)
                async for sock in sockets:
                    await self._serve(sock)
        finally:
            self.overrides.close()
            for session in tuple(self.sessions):
                session.close("the guard stops")
            self.budget.forget(self.sessions)

    async def _serve(self, sock: socket.socket, handover: Handover | None = None) -> None:
        """Serve one connection to QEMU until it ends; ``handover``: it was negotiated by another process."""
        with sock:
            try:
                greeting, messages = await self._begin(sock, handover)
            except (OSError, TimeoutError, ValueError) as error:
                log.warning("vm=%s %s: %s", self.name, self._address, str(error) or "no greeting in time")
                return
            self._meet(whose(sock, self._address))
            if handover is not None:
                self.gate.primaries.hidden = handover.hidden
            stream = Stream(sock, self.outbox, limit=MAX_UNSENT, descriptors=False)
            ours, theirs = socket.socketpair()
            control = self.gate.control = Control()
            assert self._tasks is not None
            own = self._own = [
                self._tasks.create_task(control.serve(theirs)),
                self._tasks.create_task(self.watch.run()),
            ]
            if "oob" in greeting.offered:
                own.append(self._tasks.create_task(self.heartbeat.run(control)))
            try:
                self._sock = sock
                self._up(Link(stream, self, greeting, handover.number if handover else 0), ours)
                for message in messages:
                    self.happened(message)
                stream.start(self.link)  # type: ignore[arg-type]
                await self._gone.wait()
            finally:
                for task in own:
                    task.cancel()
                self.link = self.gate.control = None
                control.close()
                self.connected.clear()
                stream.close()
                await asyncio.wait(own)

    async def _begin(self, sock: socket.socket, handover: Handover | None) -> tuple[Greeting, list[bytes]]:
        if handover is None:
            return await negotiate(sock, str(self._address))
        log.info("vm=%s the link goes on from the process before", self.name)
        return handover.greeting, []

    def inherit(self, inheritance: Inheritance) -> None:
        """Begin with a link that another process has left, before `run`."""
        self._inheritance = inheritance

    async def release(self) -> Inheritance | None:
        """Let go of the link at rest, for another process to go on with; None where it is not at rest.

        What is returned is the caller's. Nobody is served any more; `run` is to be cancelled next.
        """
        link, sock = self.link, self._sock
        if link is None or sock is None or self.clients or isinstance(self._address, FdAddress):
            return None
        self.link = None  # so that the end of the guard's own session is no loss
        for task in self._own:
            task.cancel()
        await asyncio.wait(self._own)
        if (number := await link.rest()) is None:
            return None
        hidden = self.gate.primaries.hidden
        return Inheritance(sock.dup(), Handover(self.name, str(self._address), link.greeting, number, hidden))

    def _meet(self, qemu: tuple[int, ...] | None) -> None:
        """Forget what was true of another QEMU; a connection that was merely lost changes nothing."""
        if qemu is None or qemu != self._qemu:
            self.gate.renew()
        self._qemu = qemu

    def _up(self, link: Link, own: socket.socket) -> None:
        self.link = self._dealer.link = link
        self._holds = Holds()
        self._gone.clear()
        self._unserved = True
        if (schema := self.schemas.get(link.greeting)) is not None:
            self.gate.commands = schema.commands
        self.counts.links += 1
        log.info("vm=%s link=up qemu=%s", self.name, link.greeting.version)
        entry = self._happened(LinkChange(up=True, what=link.greeting.version))
        self.standing = LinkState(up=True, since=entry.time)
        self.attach(own, Peer(0), privileged=True)
        for session in tuple(self.sessions):
            session.greet(link.greeting)
        self.connected.set()

    def link_lost(self, reason: str) -> None:
        """Close every session, as QEMU's death would close them."""
        log.warning("vm=%s link=down reason=%r", self.name, reason)
        entry = self._happened(LinkChange(up=False, what=reason))
        self.standing = LinkState(up=False, since=entry.time, reason=reason)
        self.link = self.gate.control = None
        self._dealer.clear()
        for session in tuple(self.sessions):
            session.close("QEMU is gone")
        self._gone.set()

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
        if not self.clients:
            self.drained.set()

    def attach(self, sock: socket.socket, peer: Peer, *, privileged: bool = False) -> None:
        """Begin a conversation on a connected socket, with QEMU's greeting as soon as there is one."""
        if not privileged and (refusal := self._refusal(peer)) is not None:
            log.warning("vm=%s client=%s refused: %s", self.name, peer, refusal)
            sock.close()
            return
        stream = Stream(sock, self.outbox, limit=self.limits.max_unread)
        size, now = self.limits.max_request, time.time()
        session = Session(self, stream, peer, max_request=size, privileged=privileged, since=now)
        self.sessions.add(session)
        self.drained.clear()
        if not privileged:
            self.counts.clients += 1
            log.info("vm=%s client=%s connected", self.name, peer)
        if self.link is not None:
            session.greet(self.link.greeting)
        else:
            asyncio.get_running_loop().call_later(self.limits.greeting_wait, session.give_up)

    def _refusal(self, peer: Peer) -> str | None:
        """Return why a client cannot come in; None where it can."""
        if len(self.clients) >= self.limits.max_clients:
            self.counts.drops[TOO_MANY] += 1
            return f"{self.limits.max_clients} clients already"
        if (reason := self.limits.access.refusal(peer)) is not None:
            self.counts.drops[NOT_ALLOWED] += 1
        return reason

    def departed(self, session: Session, reason: str) -> None:
        """Forget a session that has closed."""
        self.sessions.discard(session)
        self._holds.departed(session)
        self._note_drained()
        if not session.privileged:
            self.counts.departed(reason)
            log.info("vm=%s client=%s closed reason=%r", self.name, session.peer, reason)
        elif self.link is not None:
            # nothing could be judged any more
            self.link.lost("the guard's own session has ended")

    @property
    def offered(self) -> frozenset[str]:
        """The capabilities that QEMU's greeting offers."""
        return self.link.greeting.offered if self.link else frozenset()

    # requests on their way up

    def submit(self, session: Session) -> None:
        """Give a session with requests to send its place in the turns."""
        self._dealer.submit(session)

    def submit_oob(self, slot: Slot) -> None:
        """Send an out-of-band request past the window, unless it is one to be judged."""
        self._dealer.submit_oob(slot)

    def _intercepted(self, slot: Slot) -> bool:
        """Hand a request to the gate if it is one to be judged."""
        request = slot.request
        assert request is not None
        if self.traffic is not None:
            self.traffic(self.name, slot.session.peer, request)
        if self.limits.role is Role.OBSERVER and (refusal := self._observed(slot, request)) is not None:
            slot.drop_descriptor()
            slot.session.settle(slot, refusal)
            return True
        if request.command in TAKES_DESCRIPTOR and (refusal := self._holds.refusal(slot)) is not None:
            slot.drop_descriptor()
            slot.session.settle(slot, refusal)
            return True
        reading = self.gate.read(request)
        if reading is None:
            self.counts.passed += 1
            if request.command in CHANGES:
                self._changes(request)
            return False
        slot.session.held = not request.oob
        assert self._tasks is not None
        self._tasks.create_task(self._judge(slot, reading))
        return True

    def _observed(self, slot: Slot, request: Request) -> bytes | None:
        """Return the refusal of what an observer may not ask; None for a query."""
        verdict = judge_observer(request.command, request.arguments or {}, self.gate.commands)
        if verdict.refusal is None:
            return None
        return refusal_reply(slot, self._record(slot, verdict, 0.0).text)

    def _changes(self, request: Request) -> None:
        """Keep what a request is about to change from being taken for drift."""
        if self.gate.baseline.begins(request.command, request.arguments or {}):
            self.watch.soon()

    async def _judge(self, slot: Slot, reading: Operation | Unreadable) -> None:
        begun = time.monotonic()
        refusal = await self.gate.process(slot, reading, self._forward)
        self.counts.commands.add(time.monotonic() - begun)
        if isinstance(reading, StartMigration):
            self.watch.soon()
        slot.drop_descriptor()  # where it was not sent: refused, or its client has left
        with self.outbox:
            if refusal is not None:
                self._dealer.release(slot.session)
                slot.session.settle(slot, refusal)

    def _forward(self, slot: Slot) -> None:
        assert slot.request is not None
        with self.outbox:
            self._changes(slot.request)
            self._dealer.submit_judged(slot)

    # what comes down

    def answered(self, slot: Slot, reply: bytes) -> None:
        """Give a reply to the session that asked."""
        if slot.returned is not None and not slot.returned.done():
            slot.returned.set_result(reply)
        assert slot.request is not None
        if slot.request.command in CHANGES:
            self.gate.baseline.ends(slot.request.command, slot.request.arguments or {})
        if self._holds.attentive:
            self._holds.answered(slot, reply)
        slot.session.settle(slot, reply)
        self._dealer.answered(slot)
        if self._unserved and not slot.session.privileged:
            self._served()

    def happened(self, line: bytes) -> None:
        """Give an event to every negotiated session."""
        if b'"DEVICE_DELETED"' in line:
            self.gate.baseline.unplugged()
            self.watch.soon()
        for session in tuple(self.sessions):
            session.event(line)
        self.counts.events += 1
        members = json.loads(line)
        event = Event(members["event"], json.dumps(members.get("data", {})))
        self._happened(event)
        if self.gate.sight.happened(event.name, event.data):
            self.watch.soon()

    def _served(self) -> None:
        """Read QEMU's schema when the first client has been served, so that nobody waits for it."""
        self._unserved = False
        if self.gate.commands is None:
            assert self._tasks is not None
            self._tasks.create_task(self._learn_soon())

    async def _learn_soon(self) -> None:
        with suppress(TimeoutError, UnavailableError, Unexpected):  # another client's request will be the next chance
            await self._learn()
            return
        self._unserved = True

    async def _learn(self) -> Schema:
        link, control = self.link, self.gate.control
        if link is None or control is None:
            raise UnavailableError("QEMU went away")
        schema = await self.schemas.learn(link.greeting, control)
        if link is self.link:
            self.gate.commands = schema.commands
        return schema

    # decisions

    def _drifted(self, drift: Drift) -> None:
        self.counts.drifts += 1
        self.last_drift = self._happened(drift)
        log.warning("vm=%s drift: not changed through the guard: %s", self.name, drift)

    def _happened(self, what: Happening) -> Entry:
        return self.journal.add(time.time(), what)

    def _record(self, slot: Slot, verdict: Verdict, took: float) -> Decision:
        command = slot.request.command if slot.request else ""
        version = self.link.greeting.version if self.link else "gone"
        native = verdict.native.refuses.value
        decision = Decision(self.journal.next_ref, slot.session.peer, command, verdict, version, native, took)
        self._happened(decision)
        self.counts.decided(decision)
        for finding in verdict.findings:
            refused = finding is verdict.refusal
            log.warning(
                "vm=%s client=%s command=%s verdict=%s rule=%s ref=%s reason=%r",
                self.name,
                slot.session.peer,
                command,
                "refused" if refused else "warned",
                finding.rule,
                decision.ref,
                finding.problem.refusal,
                extra={"on_record": True},
            )
        return decision
