"""One guarded VM put together: its connections to QEMU, its sessions, and all that lies between them.

Bytes come in at `SessionRegistry` and at `Link`. `Hub` routes between the two, `Gate` judges, `Recorder` writes down.
This class connects them, and is the VM for the daemon and the admin interface. It routes and judges nothing itself.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from qmpguard.config import Limits
from qmpguard.policy.facts import numbers
from qmpguard.policy.forecast import NOW, WAYS, Forecast, Passes
from qmpguard.policy.rules import added, modes
from qmpguard.proxy.clients.reading import State
from qmpguard.proxy.clients.registry import SessionRegistry
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.hub import Hub
from qmpguard.proxy.judging.drift_watch import DriftWatch
from qmpguard.proxy.judging.gate import BUSY, Gate
from qmpguard.proxy.judging.overrides import Overrides
from qmpguard.proxy.judging.schemas import Schemas, VmSchema
from qmpguard.proxy.qemu.connections import QemuConnections
from qmpguard.proxy.qemu.heartbeat import Heartbeat
from qmpguard.proxy.serving import Serving
from qmpguard.proxy.sockets.budget import Budget
from qmpguard.proxy.sockets.stream import Outbox
from qmpguard.proxy.state.recorder import Recorder
from qmpguard.proxy.state.snapshot import Client, Judging, Pulse, QemuState, Snapshot
from qmpguard.record import Journal, Peer, Run
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from qmpguard.address import QemuAddress
    from qmpguard.policy.policy import Policy
    from qmpguard.proxy.clients.session import Session
    from qmpguard.proxy.listening.peer import ProcessIdentity
    from qmpguard.proxy.qemu.absence import Absence
    from qmpguard.proxy.qemu.connections import NegotiatedConnection
    from qmpguard.proxy.qemu.handover import Inheritance
    from qmpguard.proxy.qemu.link import Link
    from qmpguard.proxy.state.counters import Counters
    from qmpguard.wire.qemu_messages import Greeting

_NO_LINK = tuple(Forecast(way, Passes.UNKNOWN, "there is no link to QEMU") for way in (NOW, *WAYS))


class Vm:
    """One VM. ``connected`` is set while there is a link. ``remarks`` return what else should be known of it, or "".

    ``process`` is the process of the QEMU that was connected last; None where it is not known.
    """

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
        limits = limits or Limits()
        self.remarks: Sequence[Callable[[], str]] = ()
        self.connected = asyncio.Event()
        self.process: ProcessIdentity | None = None
        self.recorder = Recorder(name, run or Run())
        self._tasks = Tasks(f"vm={name}", self.counts.faults)
        budget = budget or Budget()
        self.outbox = Outbox(budget.grew, lambda error: self._tasks.record("stream", error))
        self.sessions = SessionRegistry(name, limits, self.counts, self.outbox, budget)
        schema = VmSchema(name, schemas or Schemas())
        self.gate = Gate(name, policy, self.recorder, schema, limits.survey_timeout)
        self.watch = DriftWatch(self.gate, name, limits.watch)
        self.hub = Hub(name, self.gate, self.watch, self.sessions, self.recorder, self.outbox)
        self.heartbeat = Heartbeat(name, self._on_heartbeat)
        self.overrides = Overrides(name, policy, self._judge_by, self.recorder.happened)
        self.connections = QemuConnections(name, address, self._on_absent)
        self._serving: Serving | None = None
        self.sessions.hub, self.sessions.contain = self.hub, self.hub.contain
        self.hub.on_link_down, self.hub.role = self._on_link_down, limits.role
        self.gate.on_unanswered = self._on_unanswered
        self.connections.on_fault = lambda error: self._tasks.record("uplink", error)

    # what others ask of it

    @property
    def counts(self) -> Counters:
        """What was counted so far."""
        return self.recorder.counts

    @property
    def journal(self) -> Journal:
        """What has happened."""
        return self.recorder.journal

    @property
    def clients(self) -> list[Session]:
        """The sessions but for the guard's own."""
        return self.sessions.clients

    @property
    def limits(self) -> Limits:
        """The limits of its clients."""
        return self.sessions.limits

    @property
    def link(self) -> Link | None:
        """The link to QEMU; None while there is none."""
        return self.hub.link

    @property
    def greeting(self) -> Greeting | None:
        """QEMU's greeting; None while there is no link."""
        return self.hub.link.greeting if self.hub.link else None

    def attach(self, sock: socket.socket, peer: Peer) -> None:
        """Begin a client's conversation on a connected socket, with QEMU's greeting as soon as there is one."""
        self.sessions.attach(sock, peer, self.greeting)

    def adopt(self, policy: Policy, limits: Limits) -> None:
        """Follow another policy and other limits from now on; clients that are here stay."""
        self.sessions.limits = limits
        self.hub.role = limits.role
        self.watch.adopt(limits.watch)
        self.overrides.base = policy
        self._judge_by(self.overrides.policy)

    def _judge_by(self, policy: Policy) -> None:
        self.gate.adopt(policy, self.limits.survey_timeout)

    def quiesce(self) -> None:
        """Read no more from clients; what was received is still answered, and then `SessionRegistry.drained` is set."""
        self.sessions.stop_reading()

    # the life of its links

    async def run(self) -> None:
        """Keep a link to QEMU and serve the sessions on it, until cancelled."""
        self.sessions.watch()
        try:
            async with Tasks(f"vm={self.name}", self.counts.faults) as self._tasks:
                self.hub.tasks = self._tasks
                await self._serve_connections()
        finally:
            self.overrides.close()
            self.sessions.close_all(CloseReason.STOPPED)
            self.outbox.hangups.close()
            self.sessions.forget()

    async def _serve_connections(self) -> None:
        while (connection := await self.connections.next()) is not None:
            try:
                await self._serve(connection)
            except Exception as error:  # noqa: BLE001 -- whatever it is: it is this VM's, and tried again
                self.connections.on_failure(error)
            else:
                self.connections.on_ended()
        await asyncio.get_running_loop().create_future()  # without a link, until cancelled

    async def _serve(self, connection: NegotiatedConnection) -> None:
        serving = None
        try:
            if not connection.same_qemu:
                self.gate.renew()
            if connection.hidden is not None:
                self.gate.memory.primaries.devices = connection.hidden
                self.gate.memory.netdevs.devices = connection.netdevs
                self.gate.memory.negotiated = connection.negotiated
            serving = self._serving = Serving(connection, self.hub, self.gate, self._on_up)
            self.process = connection.process
            self.connections.on_linked(connection)
            await serving.run(self._tasks, self.watch, self.heartbeat)
        finally:
            self._serving = None
            self.connected.clear()
            if serving is None:
                connection.hang_up()
            connection.close()

    def _on_up(self, link: Link) -> None:
        """Serve clients on a link from now on."""
        self.hub.connect(link)
        self.gate.memory.version = numbers(link.greeting.version)
        self.recorder.up(link.greeting.version)
        self.sessions.greet_all(link.greeting)
        self.connected.set()

    def _on_link_down(self, reason: str) -> None:
        """Close every session as QEMU's death would close them: each is sent first what QEMU has said."""
        self.connected.clear()
        self.recorder.down(reason)
        self.hub.disconnect()
        self.gate.disconnect()
        self.sessions.finish_all()
        self.connections.on_lost()
        if self._serving is not None:
            self._serving.end()

    def _on_unanswered(self) -> None:
        """Called when one of the guard's own questions has timed out: end a link on which QEMU has skipped one.

        A QEMU that is merely busy answers later, in order. One that has answered later requests never will.
        """
        if self.link is not None and (command := self.link.skipped) is not None:
            self.link.lose(f"QEMU did not answer {command}, though it answered later requests")

    def _on_heartbeat(self, alive: bool) -> None:
        self.hub.is_alive = alive
        if alive:
            self.sessions.on_alive()

    def _on_absent(self, found: Absence) -> None:
        self.recorder.absent(found.reason, found.cause.value)

    async def release(self, *, within: bool = False) -> Inheritance | None:
        """Let go of the link at rest, for another to go on with; None where that cannot be.

        ``within`` this process, a passed connection can be handed on, too. What is returned is the caller's. `run` is
        to be cancelled next.
        """
        if self._serving is None or self.link is None or self.clients:
            return None
        return await self._serving.release(self.connections, within=within)

    # what is shown

    def snapshot(self) -> Snapshot:
        """Return all that is known of the VM, from memory; never waits and never raises."""
        greeting, gate, seen = self.greeting, self.gate, self.gate.last_seen
        return Snapshot(
            name=self.name,
            time=time.time(),
            link=self.recorder.standing,
            qemu=self._qemu_state(),
            clients=tuple(
                Client(session.peer, session.state.value, session.since, session.outstanding)
                for session in sorted(self.clients, key=lambda session: session.peer.number)
            ),
            seen=seen.time,
            facts=seen.facts,
            history=seen.history,
            judging=Judging(gate.policy, modes(gate.policy), added(gate.policy), self.overrides.active),
            forecasts=seen.forecasts(gate.policy) if greeting else _NO_LINK,
            drift=self.recorder.last_drift,
            ways_around=gate.memory.ways_around,
            counts=self.counts,
            surveys=gate.surveys,
            remarks=tuple(text for remark in (*self.remarks, self._waiting) if (text := remark())),
        )

    def _waiting(self) -> str:
        """Return how many clients wait for QEMU; empty: none."""
        count = sum(session.state is State.WAITING for session in self.clients)
        text = (
            f"{count} client{'s' * (count > 1)} waiting for QEMU, {self.sessions.limits.greeting_wait:g} s each at most"
        )
        return text if count else ""

    def _qemu_state(self) -> QemuState:
        greeting = self.greeting
        if greeting is None:
            return QemuState("", "", Pulse.UNKNOWN)
        return QemuState(greeting.version, greeting.package, self._pulse())

    def _pulse(self) -> Pulse:
        if "oob" not in self.hub.offered:
            return Pulse.UNKNOWN
        if not self.hub.is_alive:
            return Pulse.SILENT
        return Pulse.BUSY if self.gate.surveyor.waits_for > BUSY else Pulse.OK
