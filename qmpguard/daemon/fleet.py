"""The VMs that a process guards: started, changed and stopped to fit a config, as a whole or not at all.

* Whatever a config needs is opened before anything changes: sockets for clients and for QEMUs that dial in, passed
  connections, permissions. Listening sockets are a pool by address, so VMs can be renamed or moved.
* A guard that leaves is ended by a task of its own, whatever comes after it, within `DRAIN` and a second. A guard with
  its name or with its QEMU begins when it has let go, and goes on with its link where that is at rest.
* A fault of one VM ends no other one: nothing that a guard does ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from qmpguard.daemon.guard import Guard
from qmpguard.daemon.pool import Pool
from qmpguard.proxy.qemu.connections import Presence
from qmpguard.proxy.sockets.budget import Budget
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qmpguard.config import VmConfig
    from qmpguard.daemon.systemd import PassedSockets
    from qmpguard.proxy.judging.schemas import Schemas
    from qmpguard.proxy.vm import Vm
    from qmpguard.record import Entry, Peer, Run
    from qmpguard.wire.client_messages import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a config has changed: the names of VMs. Clients are disconnected where they were removed or restarted."""

    HAS_FIELDS: ClassVar[bool] = True  # its text is fields of the log

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as the log tells it."""
        kinds = ("added", "removed", "restarted", "changed")
        return " ".join(f"{kind}={','.join(names)}" for kind in kinds if (names := getattr(self, kind))) or "no change"


class Fleet:
    """The guards of a process, by the names of their VMs, in the order of the config. ``tasks`` owns what they do.

    ``ended`` is set while there are VMs and the QEMUs of all have ended.
    """

    def __init__(self, tasks: Tasks, schemas: Schemas, sockets: PassedSockets, run: Run) -> None:
        self.guards: dict[str, Guard] = {}
        self.ended = asyncio.Event()
        self._tasks = tasks
        self._schemas = schemas
        self._sockets = sockets
        self.run = run
        self._budget = Budget()
        self._running: dict[Guard, asyncio.Task[None]] = {}
        self._leaving: dict[Guard, asyncio.Event] = {}  # set when it has let go of its QEMU
        self._listeners: list[Callable[[Entry], None]] = []
        self.remarks: list[Callable[[], str]] = []  # what should be known of every VM; empty: nothing
        self._traffic: Callable[[str, Peer, Request], None] | None = None

    @property
    def vms(self) -> list[Vm]:
        """All VMs."""
        return [guard.vm for guard in self.guards.values()]

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Tell somebody of everything that happens to any VM, also to those that come later."""
        self._listeners.append(listener)
        for guard in self.guards.values():
            guard.vm.journal.listen(listener)

    def overhear(self, traffic: Callable[[str, Peer, Request], None] | None) -> None:
        """Show somebody every request of every VM, also of those that come later; None: nobody."""
        self._traffic = traffic
        for vm in self.vms:
            vm.hub.traffic = traffic

    def fit(self, vms: Iterable[VmConfig]) -> Changes:
        """Guard these VMs and no others. Raises `UnavailableError` or `ConfigError`, and then nothing has changed."""
        configs = {vm.name: vm for vm in vms}
        wanted = {name: self._for(vm) for name, vm in configs.items()}
        with ExitStack() as undo:
            sockets = Pool(self.guards.values()).open(wanted, configs, undo)
            undo.pop_all()  # nothing fails from here on
        changes = self._changes(wanted, configs)
        leaving = [guard for name, guard in self.guards.items() if wanted.get(name) is not guard]
        arriving = [guard for name, guard in wanted.items() if self.guards.get(name) is not guard]
        for name, guard in wanted.items():
            guard.adopt(configs[name])
        sockets.hand_out(wanted)
        self.guards = wanted
        self._start(leaving, arriving)
        self._note_ended()
        return changes

    async def drain(self) -> None:
        """End all VMs: what is under way may take a little longer."""
        async with Tasks() as draining:
            for guard in self.guards.values():
                draining.start("drain", guard.drain())
            for gone in tuple(self._leaving.values()):
                draining.start("left", _until(gone))

    def cancel(self) -> None:
        """End all VMs at once."""
        for task in self._running.values():
            task.cancel()
        for guard in self.guards.values():
            guard.close()  # one that has not begun to run does not do it itself

    def _for(self, vm: VmConfig) -> Guard:
        """Return the guard of a VM, a new one where there is none or QEMU is elsewhere now."""
        guard = self.guards.get(vm.name)
        if guard is not None and _same_qemu(guard.config, vm):
            return guard
        return Guard(vm, self._schemas, self._sockets, self.run, self._budget)

    def _changes(self, wanted: Mapping[str, Guard], configs: Mapping[str, VmConfig]) -> Changes:
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

    # their lives

    def _start(self, leaving: list[Guard], arriving: list[Guard]) -> None:
        """Run the new guards; one that takes the place of another waits until that has let go of QEMU."""
        for guard in leaving:
            gone = self._leaving[guard] = asyncio.Event()
            if (heir := self._heir(guard)) is not None:
                heir.vm.connections.succeed(guard.vm.connections)
            self._tasks.start("leave", self._leave(guard, gone))
        for guard in arriving:
            guard.vm.hub.traffic, guard.vm.remarks = self._traffic, (self._remark, guard.remark)
            guard.on_presence = self._note_ended
            for listener in self._listeners:
                guard.vm.journal.listen(listener)
            before = [gone for other, gone in self._leaving.items() if _is_in_the_way(other.config, guard.config)]
            self._running[guard] = self._tasks.start("vm", _run(guard, before))

    async def _leave(self, guard: Guard, gone: asyncio.Event) -> None:
        """End a guard that is wanted no more, whatever happens meanwhile."""
        task = self._running[guard]
        try:
            if guard.vm.link is not None:
                await guard.drain()
                await self._hand_on(guard)
        finally:
            del self._running[guard], self._leaving[guard]
            task.cancel()
            await asyncio.wait([task])
            guard.close()
            gone.set()

    async def _hand_on(self, guard: Guard) -> None:
        """Let another guard that is to have the same QEMU go on with the link, if it is at rest."""
        if self._heir(guard) is None:
            return
        inheritance = await guard.vm.release(within=True)
        heir = self._heir(guard)
        if inheritance is not None and heir is not None:
            heir.vm.connections.inherit(inheritance)
        elif inheritance is not None:
            inheritance.sock.close()
        elif heir is not None:
            heir.vm.connections.succeed(guard.vm.connections)

    def _heir(self, guard: Guard) -> Guard | None:
        """Return the guard that is to have the same QEMU, and waits for it; None where there is none."""
        return next((other for other in self.guards.values() if _same_qemu(other.config, guard.config)), None)

    # what is known of all

    def _note_ended(self) -> None:
        if self.guards and all(guard.vm.connections.presence is Presence.ENDED for guard in self.guards.values()):
            self.ended.set()
        else:
            self.ended.clear()

    def _remark(self) -> str:
        return "; ".join(text for remark in self.remarks if (text := remark()))


async def _run(guard: Guard, before: list[asyncio.Event]) -> None:
    """Run a guard when others have left, unless it is to leave by then: it has no socket any more."""
    for gone in before:
        await gone.wait()
    if guard.listener is not None:
        await guard.run()


async def _until(gone: asyncio.Event) -> None:
    await gone.wait()


def _same_qemu(one: VmConfig, other: VmConfig) -> bool:
    return (one.qemu, one.takeover) == (other.qemu, other.takeover)


def _is_in_the_way(leaving: VmConfig, arriving: VmConfig) -> bool:
    """Say whether a guard must have left before another begins: of the same QEMU, or by the same name."""
    return leaving.name == arriving.name or leaving.qemu == arriving.qemu
