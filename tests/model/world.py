"""One VM of the guard between its clients and a QEMU, and the events that can happen next."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from qmpguard.address import UnixAddress
from qmpguard.config import Limits
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.policy.schema import Schema
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.qemu.connections import NegotiatedConnection
from qmpguard.proxy.vm import Vm
from qmpguard.record import Peer
from tests.model.client import Client, Step
from tests.model.loop import SteppingLoop
from tests.model.machine import Machine, Order
from tests.model.stand_ins import OrderedSet
from tests.model.streams import BrokenPromiseError, ModelStream, Token
from tests.support.conversation import GREETING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping


RULES = ("vfio-postcopy", "vfio-background-snapshot")
LIMITS = Limits(watch=0.0)
#: asyncio's own name for the end of a timeout
TIMEOUT = "Timeout._on_timeout"


class Scenario(NamedTuple):
    """What the clients want, and how often what else may happen. ``reloaded`` is the policy of the reload.

    ``devices`` are plugged at the beginning.
    """

    name: str
    a: tuple[Step, ...]
    b: tuple[Step, ...]
    chances: Mapping[str, int] = {}
    policy: Policy = Policy()
    reloaded: Policy = Policy()
    devices: tuple[str, ...] = ()


class Connections:
    """The connections to QEMU: `next` waits for the event that makes one."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.waiting: asyncio.Future[NegotiatedConnection] | None = None
        self.on_fault: Callable[[Exception], None]

    async def next(self) -> NegotiatedConnection:
        self.waiting = asyncio.get_running_loop().create_future()
        return await self.waiting

    def on_linked(self, connection: NegotiatedConnection) -> None:
        """There is a link."""

    def on_lost(self) -> None:
        """There is none."""

    def on_ended(self) -> None:
        """The link is served no more."""

    def on_failure(self, error: Exception) -> None:
        raise BrokenPromiseError(f"a link could not be served: {error!r}")


class World:
    """The whole of it. `events` are those that can happen now; `apply` makes one of them happen.

    ``fine``: a turn of the event loop is an event of its own. Otherwise the loop comes to rest after each event.
    """

    def __init__(self, scenario: Scenario, *, fine: bool = False) -> None:
        self.scenario = scenario
        self.loop = SteppingLoop()
        self.chances = dict(scenario.chances)
        self.machine = Machine(self._on_combined, scenario.devices)
        self.excused: set[str] = set()  # requests that a rule had to let pass
        self.link: ModelStream | None = None
        self._fine = False
        with self.loop.running():
            self.vm = Vm("model", UnixAddress("/model"), scenario.policy, LIMITS)
            self.vm.sessions._all = OrderedSet()
            self.connections = Connections(self)
            self.vm.connections = cast("Any", self.connections)
            self.clients = [
                Client("A", scenario.a, oob=True),
                Client("B", scenario.b, oob=True),
            ]
            self._life = self.loop.create_task(self.vm.run())
            self.loop.rest()
        for event in ("QEMU connects", "A connects", "B connects"):
            self.apply(event)
        self._fine = fine

    # what can happen

    def events(self) -> list[str]:
        """Return the names of the events that can happen now, always in the same order."""
        return [name for name, can, _ in self._table() if can and self.chances.get(name, 1)]

    def apply(self, name: str) -> None:
        """Let an event happen. Raises `BrokenPromiseError`."""
        happen = next(happen for each, can, happen in self._table() if each == name and can)
        if name in self.chances:
            self.chances[name] -= 1
        with self.loop.running():
            self._excuse()
            happen()
            if not self._fine:
                self.loop.rest()
            self._excuse()
        self._check()

    def _table(self) -> Generator[tuple[str, bool, Callable[[], None]]]:
        vm, machine, up = self.vm, self.machine, self.link is not None and not self.link.closed
        if self._fine:
            yield "turn", bool(self.loop.ready), self.loop.turn
        yield "QEMU executes", bool(machine.in_band), machine.execute
        yield "QEMU executes out-of-band", bool(machine.out_of_band), machine.execute_out_of_band
        yield "reply arrives", up and bool(machine.output), self._deliver
        for client in self.clients:
            name = client.name
            yield f"{name} sends", client.can_send, partial(client.send, vm.outbox)
            comes = client.has_more and not client.is_connected and not client.gone
            yield f"{name} connects", comes, partial(self._attach, client)
            leaves = f"{name} leaves" in self.chances and client.is_connected
            yield f"{name} leaves", leaves, partial(self._leave, client)
        yield "QEMU connects", self.connections.waiting is not None, self._connect
        yield from self._chances(up=up)

    def _chances(self, *, up: bool) -> Generator[tuple[str, bool, Callable[[], None]]]:
        overridden = bool(self.vm.overrides.active)
        table: dict[str, tuple[bool, Callable[[], None]]] = {
            "link breaks": (up, self._break),
            "override begins": (not overridden, self._override),
            "override ends": (overridden, lambda: cast("None", self.vm.overrides.end(None))),
            "reload": (True, lambda: self.vm.adopt(self.scenario.reloaded, self.vm.limits)),
            "migration completes": (self.machine.migrating, lambda: self.machine.end_migration("completed")),
            "migration fails": (self.machine.migrating, lambda: self.machine.end_migration("failed")),
            "timeout": (self.loop.awaits(TIMEOUT), lambda: self.loop.expire(TIMEOUT)),
            "look": (up, self._look),
        }
        for name, (can, happen) in table.items():
            if name in self.chances:
                yield name, can, happen

    # how it happens

    def _connect(self) -> None:
        """QEMU takes a connection. It is the same QEMU as before, and the schema is known already."""
        waiting, self.connections.waiting = self.connections.waiting, None
        assert waiting is not None
        self.machine.accept()
        self.vm.gate.schema.known = Schema({})
        self.link = ModelStream(self.loop, self._to_qemu, lambda: None)
        waiting.set_result(NegotiatedConnection(cast("Any", self.link), GREETING, same_qemu=True))

    def _to_qemu(self, data: bytes, token: Token | None) -> None:
        number = json.loads(data)["id"]
        link = self.vm.link
        assert link is not None
        pending = link._in_flight[number]
        self.machine.receive(data, (pending.id or b"").decode().strip('"'), token)

    def _deliver(self) -> None:
        assert self.link is not None
        self.link.receive(self.vm.outbox, self.machine.output.popleft())

    def _break(self) -> None:
        assert self.link is not None
        protocol = self.link.protocol
        self.link.close()
        assert protocol is not None
        protocol.connection_lost(CloseReason.BROKEN, "the model says so")

    def _attach(self, client: Client) -> None:
        stream = client.connected(self.loop)
        stream.on_start = lambda: self._soon(partial(client.negotiate, self.vm.outbox))
        self.vm.attach(cast("Any", stream), Peer(ord(client.name) - ord("A") + 1))

    def _soon(self, happen: Callable[[], None]) -> None:
        self.loop.call_soon(happen)

    def _leave(self, client: Client) -> None:
        stream = client.stream
        assert stream is not None
        client.gone = True
        protocol = stream.protocol
        stream.close()
        self.machine.forget(client.name)
        if protocol is not None:
            protocol.connection_lost(CloseReason.ENDED, "")

    def _override(self) -> None:
        self.vm.overrides.begin(None, 60.0, "the model", Peer(9))

    def _look(self) -> None:
        self.vm.hub.tasks.start("look", self._looks())

    async def _looks(self) -> None:
        await self.vm.watch._look()

    # what must hold

    def _excuse(self) -> None:
        """Excuse the requests that are under way while a rule does not refuse."""
        if is_lenient(self.vm.gate.policy):
            self.excused.update(*(client.open for client in self.clients))

    def _on_combined(self, order: Order) -> None:
        if order.owner not in self.excused:
            what = f"{order.command} of {order.owner}"
            raise BrokenPromiseError(f"the combination: {what} was executed; QEMU: {vars(self.machine)}")

    def _check(self) -> None:
        if self.loop.errors:
            raise BrokenPromiseError(self.loop.errors[0])
        if self.vm.counts.faults:
            raise BrokenPromiseError(f"a fault of the guard's own: {dict(self.vm.counts.faults)}")
        link = self.vm.link
        if link is not None:
            flying = sum(not pending.oob for pending in link._in_flight.values())
            if (counted := self.vm.hub._scheduler._in_band) != flying:
                raise BrokenPromiseError(f"{flying} requests are in flight, and the window counts {counted}")

    # the end

    def settle(self) -> None:
        """Let QEMU answer all that it was sent, and check that nothing is left. Raises `BrokenPromiseError`."""
        self._fine = False
        with self.loop.running():
            self.loop.rest()
        for name in ("QEMU executes out-of-band", "QEMU executes", "reply arrives"):
            self._play(name)
        while any(name in self.events() for name in ("QEMU executes", "QEMU executes out-of-band", "reply arrives")):
            for name in ("QEMU executes out-of-band", "QEMU executes", "reply arrives"):
                self._play(name)
        self._at_rest()

    def _play(self, name: str) -> None:
        while name in self.events():
            self.apply(name)

    def _at_rest(self) -> None:
        hub, gate = self.vm.hub, self.vm.gate
        scheduler, names = hub._scheduler, hub._fd_names
        left: dict[str, Any] = {f"the replies that {client.name} waits for": client.open for client in self.clients}
        left |= {f"queue {name}": getattr(scheduler, name) for name in QUEUES}
        left |= {
            "descriptors under way": names._under_way,
            "requests in flight": hub.link is not None and not hub.link.is_idle,
            "the lock of the gate": gate.turn.locked(),
            "sessions with a holder": [session for session in self.vm.clients if session.holder is not None],
            "judgments": [task for task in self.loop.tasks if task.get_name() == "judgment"],
        }
        left |= {
            f"descriptor {token.name}": token.place == "guard" and client.is_connected
            for client in self.clients
            for token in client.tokens
        }
        remains = {name: what for name, what in left.items() if what}
        if remains:
            raise BrokenPromiseError(f"when QEMU has answered all, there is left: {remains}")

    def discard(self) -> None:
        """End the VM, whatever it leaves."""
        with suppress(BrokenPromiseError):
            self.close()

    def close(self) -> None:
        """End the VM, and check that it leaves nothing."""
        self._fine = False
        with self.loop.running():
            self._life.cancel()
            self.loop.rest()
        if not self._life.done():
            raise BrokenPromiseError(f"the VM does not end: {self.loop.tasks}")
        held = [token.name for client in self.clients for token in client.tokens if token.place == "guard"]
        if held:
            raise BrokenPromiseError(f"the VM has ended, and nobody has closed the descriptors {held}")


def is_lenient(policy: Policy) -> bool:
    """Return whether one of the two rules does not refuse by a policy."""
    own = [policy.rules.get(rule, Mode.ENFORCE) for rule in RULES]  # both refuse in every profile
    return any(mode is not Mode.ENFORCE for mode in (policy.mode, *own))


QUEUES = ("_own_urgent", "_own_turns", "_urgent", "_cleared", "_turns", "_behind", "_carrying", "_in_band")
