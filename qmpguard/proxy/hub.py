"""One VM: its sessions on its link. Requests go up in turns, replies and events come down, the gate stands between."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qmpguard.policy.readers import Harmless, Unreadable, read
from qmpguard.proxy.control import Control
from qmpguard.proxy.gate import SURVEY_TIMEOUT, Gate, Primaries
from qmpguard.proxy.link import MAX_UNSENT, Link
from qmpguard.proxy.session import TAKES_DESCRIPTOR, Session, Slot
from qmpguard.proxy.stream import Outbox, Stream
from qmpguard.proxy.upstream import dial, negotiate
from qmpguard.wire.framing import MAX_REQUEST

if TYPE_CHECKING:
    from qmpguard.address import Address
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.verdict import Verdict
    from qmpguard.wire.replies import Greeting

log = logging.getLogger(__name__)

#: bytes that a client may leave unread before it is disconnected; QEMU's largest reply is a sixtieth of it
MAX_UNREAD = 16 << 20
#: clients of one VM at once
MAX_CLIENTS = 1024
#: seconds that a client waits for QEMU to appear before it is sent away
GREETING_WAIT = 60.0
#: seconds between heartbeats
HEARTBEAT = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one VM's clients may use. Times are in seconds, sizes in bytes."""

    survey_timeout: float = SURVEY_TIMEOUT
    max_request: int = MAX_REQUEST
    max_unread: int = MAX_UNREAD
    max_clients: int = MAX_CLIENTS
    greeting_wait: float = GREETING_WAIT


@dataclass(slots=True)
class Counts:
    """What has happened so far."""

    refused: int = 0
    warned: int = 0
    links: int = 0
    clients: int = field(default=0)


class Hub:
    """The sessions of one VM on one link."""

    def __init__(self, name: str, address: Address, policy: Policy, limits: Limits | None = None) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.counts = Counts()
        self.connected = asyncio.Event()
        self.drained = asyncio.Event()  # the last client has left
        self.sessions: set[Session] = set()
        self.outbox = Outbox()
        self.link: Link | None = None
        self.alive = True  # QEMU answered the last heartbeat
        self.control = Control()
        self.gate = Gate(self.control, policy, self._record, timeout=self.limits.survey_timeout)
        self._address = address
        self._gone = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._turns: deque[Session] = deque()
        self._own_turns: deque[Session] = deque()
        self._express: deque[Slot] = deque()  # judged, or waiting for a descriptor's way: first in line
        self._carrying: Slot | None = None  # the one request with a descriptor in flight
        self._behind: deque[Slot] = deque()  # more of that kind

    # the life of links

    async def run(self) -> None:
        """Keep a link to QEMU and serve the sessions on it, until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks, aclosing(dial(self._address)) as sockets:
                async for sock in sockets:
                    await self._serve(sock)
        finally:
            for session in tuple(self.sessions):
                session.close("the guard stops")

    async def _serve(self, sock: socket.socket) -> None:
        """Serve one connection to QEMU until it ends."""
        with sock:
            try:
                greeting, messages = await negotiate(sock, str(self._address))
            except (OSError, TimeoutError, ValueError) as error:
                log.warning("vm=%s %s: %s", self.name, self._address, str(error) or "no greeting in time")
                return
            stream = Stream(sock, self.outbox, limit=MAX_UNSENT)
            ours, theirs = socket.socketpair()
            assert self._tasks is not None
            own = [
                self._tasks.create_task(self.control.serve(theirs)),
                self._tasks.create_task(self._heartbeat(greeting)),
            ]
            try:
                self._up(Link(stream, self, greeting), ours)
                for message in messages:
                    self.happened(message)
                stream.start(self.link)  # type: ignore[arg-type]
                await self._gone.wait()
            finally:
                for task in own:
                    task.cancel()
                self.link = None
                self.connected.clear()
                stream.close()
                await asyncio.wait(own)

    def _up(self, link: Link, own: socket.socket) -> None:
        self.link = link
        self._gone.clear()
        self.gate.primaries = Primaries()  # another QEMU hides nothing of the last one's
        self.alive = True
        self.counts.links += 1
        log.info("vm=%s link=up qemu=%s", self.name, link.greeting.version)
        self.attach(own, "guard", privileged=True)
        for session in tuple(self.sessions):
            session.greet(link.greeting.line)
        self.connected.set()

    def link_lost(self, reason: str) -> None:
        """Close every session, as QEMU's death would close them."""
        log.warning("vm=%s link=down reason=%r", self.name, reason)
        self.link = None
        for queue in (self._express, self._behind):
            for slot in queue:
                slot.drop_descriptor()
                slot.abandon()
            queue.clear()
        self._turns.clear()
        self._own_turns.clear()
        self._carrying = None
        for session in tuple(self.sessions):
            session.close("QEMU is gone")
        self._gone.set()

    async def _heartbeat(self, greeting: Greeting) -> None:
        """Ask what QEMU answers even while its main loop is held, so that busy and gone can be told apart."""
        while "oob" in greeting.offered:
            await asyncio.sleep(HEARTBEAT)
            alive = False
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT):
                    alive = await self.control.answers_out_of_band()
            if alive is not self.alive:
                log.warning("vm=%s heartbeat=%s", self.name, "ok" if alive else "none")
                self.alive = alive

    @property
    def greeting(self) -> Greeting | None:
        """QEMU's greeting; None while there is no link."""
        return self.link.greeting if self.link else None

    # sessions

    def quiesce(self) -> None:
        """Read no more from clients; what was received is still answered."""
        for session in self._clients():
            session.hush()
        self._note_drained()

    def _clients(self) -> list[Session]:
        return [session for session in self.sessions if not session.privileged]

    def _note_drained(self) -> None:
        if not self._clients():
            self.drained.set()

    def attach(self, sock: socket.socket, name: str, *, privileged: bool = False) -> None:
        """Begin a conversation on a connected socket, with QEMU's greeting as soon as there is one."""
        if len(self.sessions) > self.limits.max_clients:
            log.warning("vm=%s client=%s refused: %d clients already", self.name, name, self.limits.max_clients)
            sock.close()
            return
        stream = Stream(sock, self.outbox, limit=self.limits.max_unread)
        session = Session(self, stream, name, max_request=self.limits.max_request, privileged=privileged)
        self.sessions.add(session)
        self.drained.clear()
        if not privileged:
            self.counts.clients += 1
            log.info("vm=%s client=%s connected", self.name, name)
        if self.link is not None:
            session.greet(self.link.greeting.line)
        else:
            asyncio.get_running_loop().call_later(self.limits.greeting_wait, session.give_up)

    def departed(self, session: Session, reason: str) -> None:
        """Forget a session that has closed."""
        self.sessions.discard(session)
        self._note_drained()
        if not session.privileged:
            log.info("vm=%s client=%s closed reason=%r", self.name, session.name, reason)

    @property
    def offered(self) -> frozenset[str]:
        """The capabilities that QEMU's greeting offers."""
        return self.link.greeting.offered if self.link else frozenset()

    # requests on their way up

    def submit(self, session: Session) -> None:
        """Give a session with requests to send its place in the turns."""
        if session.held or session.in_turn or not session.todo:
            return
        session.in_turn = True
        (self._own_turns if session.privileged else self._turns).append(session)
        self._deal()

    def submit_oob(self, slot: Slot) -> None:
        """Send an out-of-band request past the window, unless it is one to be judged."""
        if self.link is None:
            return
        if not self._intercepted(slot):
            self.link.send(slot)

    def _deal(self) -> None:
        """Send what the window has room for: the guard's own first, then what was judged, then the clients in turn."""
        while (link := self.link) is not None:
            if self._own_turns and link.has_room(privileged=True):
                turns = self._own_turns
            elif not link.has_room(privileged=False):
                return
            elif self._express:
                self._send(self._express.popleft())
                continue
            elif self._turns:
                turns = self._turns
            else:
                return
            session = turns.popleft()
            session.in_turn = False
            if session.todo:
                slot = session.todo.popleft()
                if not self._intercepted(slot):
                    self._send(slot)
                if session.todo and not session.held:
                    session.in_turn = True
                    turns.append(session)

    def _intercepted(self, slot: Slot) -> bool:
        """Hand a request to the gate if it is one to be judged."""
        session, request = slot.session, slot.request
        assert request is not None
        if session.privileged:
            return False
        reading = read(request.command, request.arguments or {}, self.gate.policy)
        if reading is None or isinstance(reading, Harmless):
            return False
        session.held = not request.oob
        assert self._tasks is not None
        self._tasks.create_task(self._judge(slot, reading))
        return True

    async def _judge(self, slot: Slot, reading: Operation | Unreadable) -> None:
        refusal = await self.gate.process(slot, reading, self._forward)
        with self.outbox:
            if refusal is not None:
                slot.drop_descriptor()
                self._release(slot.session)
                slot.session.settle(slot, refusal)

    def _forward(self, slot: Slot) -> None:
        with self.outbox:
            self._express.append(slot)
            self._deal()

    def _send(self, slot: Slot) -> None:
        link, request = self.link, slot.request
        assert link is not None
        assert request is not None
        if request.command in TAKES_DESCRIPTOR and self._carrying is not None:
            # QEMU keeps one batch of descriptors: a second one on its way would push the first out
            slot.session.held = True
            self._behind.append(slot)
            return
        if request.command in TAKES_DESCRIPTOR:
            self._carrying = slot
        link.send(slot)
        if slot.session.held:
            self._release(slot.session)

    def _release(self, session: Session) -> None:
        session.held = False
        self.submit(session)

    # what comes down

    def answered(self, slot: Slot, reply: bytes) -> None:
        """Give a reply to the session that asked."""
        if slot.returned is not None and not slot.returned.done():
            slot.returned.set_result(reply)
        if slot is self._carrying:
            self._carrying = None
            if self._behind:
                self._express.appendleft(self._behind.popleft())
        slot.session.settle(slot, reply)
        if self._express or self._turns or self._own_turns:
            self._deal()

    def happened(self, line: bytes) -> None:
        """Give an event to every negotiated session."""
        for session in tuple(self.sessions):
            session.event(line)

    # decisions

    def _record(self, slot: Slot, verdict: Verdict) -> None:
        command = slot.request.command if slot.request else ""
        for finding in verdict.findings:
            refused = finding is verdict.refusal
            self.counts.refused += refused
            self.counts.warned += not refused
            log.warning(
                "vm=%s client=%s command=%s verdict=%s rule=%s reason=%r",
                self.name,
                slot.session.name,
                command,
                "refused" if refused else "warned",
                finding.rule,
                finding.problem.refusal,
            )
