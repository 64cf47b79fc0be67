"""The supervisor: starts, changes and stops the guards of a process to match a config, completely or not at all.

* Every socket, passed connection and permission that a config needs is opened before anything changes. Listening
  sockets are pooled by address, so VMs can be renamed or moved.
* A guard that is removed is stopped by its own task, within `DRAIN_TIMEOUT` and a second. A new guard of the same name
  or the same QEMU starts when the old one has released its QEMU, and takes its link over where no request is pending.
* A fault of one VM stops no other VM: no exception of a guard ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qmpguard.daemon.guard import GuardedVm
from qmpguard.daemon.pool import SocketPool
from qmpguard.proxy.qemu.connections import Presence
from qmpguard.proxy.sockets.budget import Budget
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qmpguard.config import VmConfig
    from qmpguard.daemon.systemd import PassedSockets
    from qmpguard.policy.facts import Facts
    from qmpguard.policy.policy import Policy
    from qmpguard.proxy.clients.interfaces import TrafficLog
    from qmpguard.proxy.judging.schemas import Schemas
    from qmpguard.proxy.vm import Vm
    from qmpguard.record import Entry, Run

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """The names of the VMs that a config has changed. Clients of removed and restarted VMs are disconnected."""

    HAS_FIELDS: ClassVar[bool] = True  # its text is fields of the log

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the names as fields of the log."""
        kinds = ("added", "removed", "restarted", "changed")
        return " ".join(f"{kind}={','.join(names)}" for kind in kinds if (names := getattr(self, kind))) or "no change"


class Supervisor:
    """The guards of a process, by the names of their VMs, in the order of the config. ``tasks`` owns their tasks.

    ``ended`` is set while there are VMs and every QEMU has ended.
    """

    def __init__(self, tasks: Tasks, schemas: Schemas, sockets: PassedSockets, run: Run) -> None:
        self.guards: dict[str, GuardedVm] = {}
        self.ended = asyncio.Event()
        self._tasks = tasks
        self._schemas = schemas
        self._sockets = sockets
        self.run = run
        self._budget = Budget()
        self._running: dict[GuardedVm, asyncio.Task[None]] = {}
        self._stopping: dict[GuardedVm, asyncio.Event] = {}  # each is set when the guard has released its QEMU
        self._listeners: list[Callable[[Entry], None]] = []
        self.remarks: list[Callable[[], str]] = []  # each returns a note about every VM; empty: no note
        self._traffic: TrafficLog | None = None

    @property
    def vms(self) -> list[Vm]:
        """All VMs."""
        return [guard.vm for guard in self.guards.values()]

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Call ``listener`` with each new entry of every VM's journal, also of VMs that are added later."""
        self._listeners.append(listener)
        for guard in self.guards.values():
            guard.vm.journal.listen(listener)

    def policy(self, vm: str) -> tuple[Policy, frozenset[str]]:
        """Return the policy of a VM at this moment, overrides included, and the names of the guard's own sockets."""
        gate = self.guards[vm].vm.gate
        return gate.policy, gate.given.own

    def remembered(self, vm: str) -> Facts:
        """Return what the guard remembers of a VM's QEMU at this moment."""
        return self.guards[vm].vm.gate.known

    def set_request_log(self, traffic: TrafficLog | None) -> None:
        """Tell ``traffic`` every request and reply of every VM, also of VMs that are added later; None: stop it."""
        self._traffic = traffic
        for vm in self.vms:
            vm.hub.traffic = traffic

    def apply(self, vms: Iterable[VmConfig]) -> Changes:
        """Guard these VMs and no others. Raises `UnavailableError` or `ConfigError`; then nothing has changed."""
        configs = {vm.name: vm for vm in vms}
        wanted = {name: self._guard_of(vm) for name, vm in configs.items()}
        with ExitStack() as undo:
            sockets = SocketPool(self.guards.values()).open(wanted, configs, undo)
            undo.pop_all()  # no statement below this one fails
        changes = self._changes(wanted, configs)
        stopping = [guard for name, guard in self.guards.items() if wanted.get(name) is not guard]
        starting = [guard for name, guard in wanted.items() if self.guards.get(name) is not guard]
        for name, guard in wanted.items():
            guard.adopt(configs[name])
        sockets.assign(wanted)
        self.guards = wanted
        self._start(stopping, starting)
        self._note_ended()
        return changes

    async def drain(self) -> None:
        """Stop all guards; wait for pending replies, at most `DRAIN_TIMEOUT`."""
        async with Tasks() as draining:
            for guard in self.guards.values():
                draining.start("drain", guard.drain())
            for gone in tuple(self._stopping.values()):
                draining.start("left", _wait_for(gone))

    def cancel(self) -> None:
        """Stop all guards at once."""
        for task in self._running.values():
            task.cancel()
        for guard in self.guards.values():
            guard.close()  # a guard whose task has not started does not close itself

    def _guard_of(self, vm: VmConfig) -> GuardedVm:
        """Return the guard of a VM: a new one where the VM is new or its QEMU has another address."""
        guard = self.guards.get(vm.name)
        if guard is not None and _same_qemu(guard.config, vm):
            return guard
        return GuardedVm(vm, self._schemas, self._sockets, self.run, self._budget)

    def _changes(self, wanted: Mapping[str, GuardedVm], configs: Mapping[str, VmConfig]) -> Changes:
        before = self.guards
        both = [name for name in wanted if name in before]
        return Changes(
            added=tuple(name for name in wanted if name not in before),
            removed=tuple(name for name in before if name not in wanted),
            restarted=tuple(name for name in both if wanted[name] is not before[name]),
            changed=tuple(
                name for name in both if wanted[name] is before[name] and configs[name] != before[name].config
            ),
        )

    # start and stop

    def _start(self, stopping: list[GuardedVm], starting: list[GuardedVm]) -> None:
        """Run the new guards. One that replaces another waits until that has released its QEMU."""
        for guard in stopping:
            gone = self._stopping[guard] = asyncio.Event()
            if (successor := self._successor(guard)) is not None:
                successor.vm.connections.succeed(guard.vm.connections)
            self._tasks.start("leave", self._stop(guard, gone))
        for guard in starting:
            guard.vm.hub.traffic, guard.vm.remarks = self._traffic, (self._remark, guard.remark)
            guard.on_presence = self._note_ended
            for listener in self._listeners:
                guard.vm.journal.listen(listener)
            before = [gone for other, gone in self._stopping.items() if _must_wait_for(other.config, guard.config)]
            self._running[guard] = self._tasks.start("vm", _run(guard, before))

    async def _stop(self, guard: GuardedVm, gone: asyncio.Event) -> None:
        """Stop a guard that was removed."""
        task = self._running[guard]
        try:
            if guard.vm.link is not None:
                await guard.drain()
                await self._hand_over(guard)
        finally:
            del self._running[guard], self._stopping[guard]
            task.cancel()
            await asyncio.wait([task])
            guard.close()
            gone.set()

    async def _hand_over(self, guard: GuardedVm) -> None:
        """Give the link to the guard that succeeds this one at the same QEMU, if no request is pending."""
        if self._successor(guard) is None:
            return
        inheritance = await guard.vm.release(within=True)
        successor = self._successor(guard)
        if inheritance is not None and successor is not None:
            successor.vm.connections.inherit(inheritance)
        elif inheritance is not None:
            inheritance.sock.close()
        elif successor is not None:
            successor.vm.connections.succeed(guard.vm.connections)

    def _successor(self, guard: GuardedVm) -> GuardedVm | None:
        """Return the new guard of the same QEMU; None where there is none."""
        return next((other for other in self.guards.values() if _same_qemu(other.config, guard.config)), None)

    # state of all VMs

    def _note_ended(self) -> None:
        if self.guards and all(guard.vm.connections.presence is Presence.ENDED for guard in self.guards.values()):
            self.ended.set()
        else:
            self.ended.clear()

    def _remark(self) -> str:
        return "; ".join(text for remark in self.remarks if (text := remark()))


async def _run(guard: GuardedVm, before: list[asyncio.Event]) -> None:
    """Run a guard after others have stopped, unless it was removed meanwhile: then it has no socket any more."""
    for gone in before:
        await gone.wait()
    if guard.listener is not None:
        await guard.run()


async def _wait_for(gone: asyncio.Event) -> None:
    await gone.wait()


def _same_qemu(one: VmConfig, other: VmConfig) -> bool:
    return (one.qemu, one.takeover) == (other.qemu, other.takeover)


def _must_wait_for(stopping: VmConfig, starting: VmConfig) -> bool:
    """Say whether a guard must stop before another starts: both have the same QEMU, or the same name."""
    return stopping.name == starting.name or stopping.qemu == starting.qemu
