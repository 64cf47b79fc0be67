"""Routing between the sessions of one VM and its link: requests up, replies and events down.

Up: a session submits, the hub asks the scheduler for the next request and routes it, until there is none (`route_all`).
A request that is to be judged goes to the gate, in a task of its own, and comes back by `_forward`; all others go to
the link. Down: the link calls `on_reply` and `on_event`.

An exception of the guard's own stays with the session that it is about: that one is closed, its trace is logged, and
no other session notices. A request that could not be examined is refused.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.access import Role
from qmpguard.policy.drift import CHANGES
from qmpguard.policy.hmp.shown import shown
from qmpguard.policy.observer import judge_observer
from qmpguard.policy.operations import StartMigration
from qmpguard.proxy.clients.fd_names import TAKES_DESCRIPTOR, FdNames
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.judging.refusal import refusal_reply
from qmpguard.proxy.qemu.scheduler import Scheduler
from qmpguard.tasks import Tasks
from qmpguard.wire.client_messages import error_reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.operations import Operation
    from qmpguard.policy.reading.result import Unreadable
    from qmpguard.proxy.clients.interfaces import TrafficLog
    from qmpguard.proxy.clients.pending import PendingRequest, Requester
    from qmpguard.proxy.clients.registry import SessionRegistry
    from qmpguard.proxy.judging.drift_watch import DriftWatch
    from qmpguard.proxy.judging.gate import Gate
    from qmpguard.proxy.qemu.link import Link
    from qmpguard.proxy.sockets.stream import Outbox
    from qmpguard.proxy.state.recorder import Recorder
    from qmpguard.wire.qemu_messages import QemuEvent


# the way to a member through its class costs as much as a system call
_OBSERVER = Role.OBSERVER


class Hub:
    """Routes for one VM. ``link`` is the present one; None while there is none.

    ``role`` is that of the clients. ``traffic`` is told every request and reply. ``tasks`` owns the judgments.
    ``is_alive`` is whether QEMU answers, as far as the heartbeat can tell.
    """

    def __init__(
        self, name: str, gate: Gate, watch: DriftWatch, sessions: SessionRegistry, recorder: Recorder, outbox: Outbox
    ) -> None:
        self.name = name
        self.outbox = outbox
        self.link: Link | None = None
        self.is_alive = True
        self.role = Role.OPERATOR
        self.traffic: TrafficLog | None = None
        self.tasks = Tasks(f"vm={name}", recorder.counts.faults)
        self.on_link_down: Callable[[str], None] = _nothing
        self._gate = gate
        self._watch = watch
        self._sessions = sessions
        self._recorder = recorder
        self._scheduler = Scheduler()
        self._fd_names = FdNames()
        self._routing = False

    def connect(self, link: Link) -> None:
        """Route to a link from now on."""
        self.link = link
        self.is_alive = True
        self._scheduler = Scheduler()

    def disconnect(self) -> None:
        """Called when the link is gone: discard every request that was not sent, and all that its QEMU was given."""
        self.link = None
        self._scheduler.clear()
        self._fd_names = FdNames()

    @property
    def offered(self) -> frozenset[str]:
        """The capabilities that QEMU's greeting offers."""
        return self.link.greeting.offered if self.link else frozenset()

    # up: called by sessions

    def on_descriptors(self, count: int) -> None:
        """Count descriptors that a client has sent."""
        self._recorder.counts.descriptors_received += count

    def on_malformed(self) -> None:
        """Count a message that is no JSON."""
        self._recorder.counts.malformed += 1

    def submit(self, session: Requester) -> None:
        """Called when a session has in-band requests to send."""
        self.route_all(session)

    def submit_oob(self, pending: PendingRequest) -> None:
        """Take an out-of-band request, which waits for nothing."""
        if self.link is not None:
            self._scheduler.submit_oob(pending)
            self.route_all()

    def on_session_closed(
        self, session: Requester, reason: CloseReason, detail: str, unsent: list[PendingRequest]
    ) -> None:
        """Called when a session has closed, with those of its requests that were not sent."""
        self._fd_names.on_session_closed(session, unsent)
        self._scheduler.on_session_closed(session, unsent)
        if not session.privileged:
            self._sessions.remove(session, reason, detail)
        elif self.link is not None:  # nothing could be judged any more
            self.link.lose("the guard's own session has ended")

    # up: the route

    def route_all(self, session: Requester | None = None) -> None:
        """Route every request that has its turn, now that a session may have more of them.

        A call from within returns at once: all is looked at again.
        """
        scheduler = self._scheduler
        if session is not None:
            scheduler.submit(session)
        if self._routing:
            return
        self._routing = True
        try:
            while (link := self.link) is not None and (pending := scheduler.next()) is not None:
                if not (pending.judged or pending.session.privileged) and self._intercepts(pending):
                    continue
                if not scheduler.admit(pending):
                    pending.judged = True  # it may pass, and waits for the way of descriptors only
                    continue
                self._recorder.counts.descriptors_passed += pending.descriptor is not None
                try:
                    link.send(pending)
                except Exception as error:  # noqa: BLE001 -- whatever it is: nothing of the request was sent
                    self._unsendable(pending, error)
                if link.is_behind and not scheduler.blocked:
                    scheduler.blocked = True
                    link.when_sent(self._on_caught_up)
        finally:
            self._routing = False

    def _unsendable(self, pending: PendingRequest, error: Exception) -> None:
        self._scheduler.finish(pending)
        pending.discard()
        self._fault(pending.session, error)

    def _on_caught_up(self) -> None:
        """Called when QEMU has read what it had left unread."""
        if self.link is not None:
            self._scheduler.blocked = not self.link.caught_up()
            self.route_all()

    def _intercepts(self, pending: PendingRequest) -> bool:
        """Say whether a request goes no further for the moment: it is refused, or is to be judged.

        What fails here is refused: the guard fails closed.
        """
        try:
            return self._intercept(pending)
        except Exception as error:  # noqa: BLE001 -- fail closed, whatever it is: the log has the trace
            self.tasks.record("intercept", error)
            self._refuse(pending)
            return True

    def _intercept(self, pending: PendingRequest) -> bool:
        request = pending.request
        if self.traffic is not None:
            self.traffic.on_request(self.name, pending.session.peer, request)
        if (refusal := self._barred(pending)) is not None:
            pending.drop_descriptor()
            self._note(pending, refusal)
            pending.session.settle(pending, refusal)
            return True
        reading = self._gate.read(request)
        if reading is None:
            self._recorder.counts.passed += 1
            if request.command in CHANGES:
                self._watch.on_request(request)
            return False
        if not pending.oob:
            self._scheduler.hold(pending)
        self.tasks.start("judgment", self._judge(pending, reading), lambda error: self._refuse(pending))
        return True

    def _barred(self, pending: PendingRequest) -> bytes | None:
        """Return the refusal of what this client may not ask, whatever QEMU's machine is; None where it may."""
        if self.role is _OBSERVER and (refusal := self._observed(pending)) is not None:
            return refusal
        return self._fd_names.refusal(pending) if pending.request.command in TAKES_DESCRIPTOR else None

    def _observed(self, pending: PendingRequest) -> bytes | None:
        """Return the refusal of what an observer may not ask; None for a query."""
        request = pending.request
        verdict = judge_observer(request.command, request.arguments or {}, self._gate.commands)
        if verdict.refusal is None:
            return None
        hmp = shown(request.command, request.arguments)
        decision = self._recorder.decided(pending.session.peer, request.command, verdict, 0.0, hmp)
        return refusal_reply(pending, decision)

    async def _judge(self, pending: PendingRequest, reading: Operation | Unreadable) -> None:
        begun = time.monotonic()
        refusal = await self._gate.process(pending, reading, self._forward)
        self._recorder.counts.commands.add(time.monotonic() - begun)
        if isinstance(reading, StartMigration):
            self._watch.soon()
        pending.drop_descriptor()  # where it was not sent: refused, or its client has left
        if refusal is not None:
            self._settle(pending, refusal)

    def _forward(self, pending: PendingRequest) -> None:
        """Send a request that was judged and may pass: the gate calls this, and no await is in between."""
        pending.judged = True
        with self.outbox:
            if pending.request.command in CHANGES:
                self._watch.on_request(pending.request)
            self._scheduler.submit_cleared(pending)
            self.route_all()

    def _refuse(self, pending: PendingRequest) -> None:
        """Refuse a request about which the guard itself has failed; one that was sent is answered by QEMU."""
        if not pending.sent:
            pending.discard()
            self._settle(pending, error_reply(CloseReason.FAILED.value, pending.id))

    def _settle(self, pending: PendingRequest, reply: bytes) -> None:
        """Answer a request that was not sent, and let those follow that wait behind it."""
        with self.outbox:
            self._scheduler.release(pending)
            self._note(pending, reply)
            pending.session.settle(pending, reply)
            self.route_all()

    def _note(self, pending: PendingRequest, reply: bytes) -> None:
        if self.traffic is not None:
            self.traffic.on_reply(self.name, pending, reply)

    # down: called by the link

    def on_reply(self, pending: PendingRequest, message: bytes, reply: bytes) -> None:
        """Give a reply to the session that has asked, and before that to the gate, if that waits for it."""
        if pending.on_outcome is not None:
            pending.conclude(message)
        if pending.request.command in CHANGES:
            self._watch.on_reply(pending.request)
        if self._fd_names.attentive:
            self._fd_names.on_reply(pending, message)
        others_wait = self._scheduler.finish(pending)
        if self.traffic is not None:
            self.traffic.on_reply(self.name, pending, message)
        try:
            pending.session.settle(pending, reply)
        except Exception as error:  # noqa: BLE001 -- it concerns no other session
            self._fault(pending.session, error)
        if others_wait:
            self.route_all()
        schema = self._gate.schema
        if schema.is_wanted and not pending.session.privileged:
            schema.learn_soon(self.tasks)

    def on_event(self, event: QemuEvent) -> None:
        """Give an event to every session."""
        for session in self._sessions.clients:
            self.contain(session, partial(session.on_event, event.line))
        self._recorder.event(event)
        self._gate.memory.happened(event.name, event.data)
        self._watch.on_event(event)

    def on_link_lost(self, reason: str) -> None:
        """Called when the link has ended."""
        self.on_link_down(reason)

    # faults, each kept to the session that it is about

    def contain(self, session: Requester, work: Callable[[], None]) -> None:
        """Do something for one session; an exception closes it, and concerns no other."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 -- whatever it is
            self._fault(session, error)

    def _fault(self, session: Requester, error: Exception) -> None:
        self.tasks.record("session", error)
        self.tasks.guard("session", lambda _: session.close(CloseReason.FAILED), error)


def _nothing(_: str) -> None:
    pass
