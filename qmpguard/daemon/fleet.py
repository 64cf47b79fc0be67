"""The VMs that a process guards: started, changed and stopped to fit a config, as a whole or not at all."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.daemon.guard import Guard
from qmpguard.proxy.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from qmpguard.config import VmConfig
    from qmpguard.daemon.systemd import Sockets
    from qmpguard.proxy.hub import Hub
    from qmpguard.proxy.listener import Listener
    from qmpguard.proxy.schemas import Schemas
    from qmpguard.record import Entry, Peer, Run
    from qmpguard.wire.messages import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a config has changed: the names of VMs. Clients are disconnected where they were removed or restarted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as the log tells it."""
        kinds = ("added", "removed", "restarted", "changed")
        return " ".join(f"{kind}={','.join(names)}" for kind in kinds if (names := getattr(self, kind))) or "no change"


class Fleet:
    """The guards of a process, by the names of their VMs, in the order of the config. ``tasks`` owns what they do."""

    def __init__(self, tasks: asyncio.TaskGroup, schemas: Schemas, sockets: Sockets, run: Run) -> None:
        self.guards: dict[str, Guard] = {}
        self._tasks = tasks
        self._schemas = schemas
        self._sockets = sockets
        self._run = run
        self._budget = Budget()
        self._running: dict[Guard, asyncio.Task[None]] = {}
        self._listeners: list[Callable[[Entry], None]] = []
        self.remarks: list[Callable[[], str]] = []  # what should be known of every VM; empty: nothing
        self._traffic: Callable[[str, Peer, Request], None] | None = None

    @property
    def hubs(self) -> list[Hub]:
        """The hubs of all VMs."""
        return [guard.hub for guard in self.guards.values()]

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Tell somebody of everything that happens to any VM, also to those that come later."""
        self._listeners.append(listener)
        for guard in self.guards.values():
            guard.hub.journal.listen(listener)

    def overhear(self, traffic: Callable[[str, Peer, Request], None] | None) -> None:
        """Show somebody every request of every VM, also of those that come later; None: nobody."""
        self._traffic = traffic
        for hub in self.hubs:
            hub.traffic = traffic

    def fit(self, vms: Iterable[VmConfig]) -> Changes:
        """Guard these VMs and no others. Raises `UnavailableError` or `ConfigError`, and then nothing has changed."""
        wanted = {vm.name: self._for(vm) for vm in vms}
        configs = {vm.name: vm for vm in vms}
        with ExitStack() as undo:
            listeners = self._open(wanted, configs, undo)
            undo.pop_all()  # nothing fails from here on
        changes = self._changes(wanted, configs)
        leaving = [guard for name, guard in self.guards.items() if wanted.get(name) is not guard]
        spare = {id(guard.listener): guard.listener for guard in self.guards.values()}
        for name, guard in wanted.items():
            spare.pop(id(listeners[name]), None)
            guard.listen(listeners[name])
            guard.adopt(configs[name])
        for listener in spare.values():
            if listener is not None:
                listener.accept()  # who has connected already belongs to a guard that may stay
                listener.close()
        before, self.guards = self.guards, wanted
        self._start(before, leaving)
        return changes

    async def drain(self) -> None:
        """End all VMs: what is under way may take a little longer."""
        async with asyncio.TaskGroup() as draining:
            for guard in self.guards.values():
                draining.create_task(guard.drain())

    def cancel(self) -> None:
        """End all VMs at once."""
        for task in self._running.values():
            task.cancel()
        for guard in self.guards.values():
            guard.close()  # one that has not begun to run does not do it itself

    def _for(self, vm: VmConfig) -> Guard:
        """Return the guard of a VM, a new one where there is none or QEMU is elsewhere now."""
        guard = self.guards.get(vm.name)
        if guard is not None and (guard.config.qemu, guard.config.takeover) == (vm.qemu, vm.takeover):
            return guard
        return Guard(vm, self._schemas, self._sockets, self._run, self._budget)

    def _open(
        self, wanted: Mapping[str, Guard], configs: Mapping[str, VmConfig], undo: ExitStack
    ) -> dict[str, Listener]:
        """Return a socket for each VM: one that is open already at that address, or a new one."""
        opened = {str(guard.config.listen): guard.listener for guard in self.guards.values()}
        listeners = {}
        for name, guard in wanted.items():
            vm = configs[name]
            listener = opened.get(str(vm.listen))
            if listener is None:
                listener = guard.open(vm)
                undo.callback(listener.close)
            else:
                undo.callback(listener.permit, *listener.permit(vm.socket_mode, vm.socket_group))
            listeners[name] = listener
        return listeners

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

    def _start(self, before: Mapping[str, Guard], leaving: list[Guard]) -> None:
        """Run the new guards; one that takes the place of another waits until that has let go of QEMU."""
        for guard in leaving:
            guard.listener = None  # closed, or another's by now
        for name, guard in self.guards.items():
            if before.get(name) is guard:
                continue
            guard.hub.traffic, guard.hub.remarks = self._traffic, self.remarks
            for listener in self._listeners:
                guard.hub.journal.listen(listener)
            self._running[guard] = self._tasks.create_task(self._guard(guard, before.get(name)))
        for guard in leaving:
            if guard.config.name not in self.guards:
                self._tasks.create_task(self._end(guard))

    async def _guard(self, guard: Guard, after: Guard | None) -> None:
        if after is not None:
            await self._end(after)
        await guard.run()

    async def _end(self, guard: Guard) -> None:
        await guard.drain()
        task = self._running.pop(guard)
        task.cancel()
        await asyncio.wait([task])
