"""The listening sockets of all VMs by address, while one config replaces another.

Every new socket is opened before anything changes. If one cannot be opened, the new ones are closed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import ExitStack

    from qmpguard.config import VmConfig
    from qmpguard.daemon.guard import Guard
    from qmpguard.proxy.listening.listener import Listener
    from qmpguard.proxy.listening.qemu_listener import QemuListener


class SocketPool:
    """The sockets of the present guards."""

    def __init__(self, guards: Collection[Guard]) -> None:
        self._guards = guards
        self._listeners = {_key(guard.config): guard.listener for guard in guards if guard.listener is not None}
        self._for_qemu = {
            str(guard.config.qemu): guard.vm.connections.listener
            for guard in guards
            if guard.vm.connections.listener is not None
        }

    def open(self, wanted: Mapping[str, Guard], configs: Mapping[str, VmConfig], undo: ExitStack) -> OpenSockets:
        """Return the sockets that guards need: those that are open at their addresses, and new ones.

        ``undo`` receives callbacks that revert each change. Raises `UnavailableError` or `ConfigError`.
        """
        listeners = {name: self._listener(guard, configs[name], undo) for name, guard in wanted.items()}
        for_qemu = {name: self._qemu_listener(guard, undo) for name, guard in wanted.items()}
        return OpenSockets(listeners, for_qemu, self._guards)

    def _listener(self, guard: Guard, vm: VmConfig, undo: ExitStack) -> Listener:
        listener = self._listeners.get(_key(vm))
        if listener is None or (listener.is_closed and not listener.suspended):
            listener = guard.open(vm)
            undo.callback(listener.close)
            return listener
        undo.callback(listener.set_permissions, *listener.set_permissions(vm.socket_mode, vm.socket_group))
        if listener.suspended and not guard.refuses(vm):
            listener.resume()
            undo.callback(listener.suspend)
        return listener

    def _qemu_listener(self, guard: Guard, undo: ExitStack) -> QemuListener | None:
        listener = self._for_qemu.get(str(guard.config.qemu))
        if listener is None and guard not in self._guards:
            listener = guard.open_for_qemu()
            if listener is not None:
                undo.callback(listener.close)
        return listener


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """Open sockets by the names of the VMs that will have them, and the guards that have them now."""

    listeners: Mapping[str, Listener]
    for_qemu: Mapping[str, QemuListener | None]
    before: Collection[Guard]

    def assign(self, wanted: Mapping[str, Guard]) -> None:
        """Give each guard its sockets, and close the sockets that no guard needs. Never raises."""
        spare = {id(guard.listener): guard.listener for guard in self.before}
        spare_for_qemu = {id(guard.vm.connections.listener): guard.vm.connections.listener for guard in self.before}
        for guard in self.before:
            guard.listener = guard.vm.connections.listener = None
        for name, guard in wanted.items():
            guard.vm.connections.listener = self.for_qemu[name]
            guard.listen(self.listeners[name])
            spare.pop(id(guard.listener), None)
            spare_for_qemu.pop(id(guard.vm.connections.listener), None)
        for listener in spare.values():
            if listener is not None:
                listener.accept()  # pending connections belong to a guard that may stay
                listener.close()
        for qemu_listener in spare_for_qemu.values():
            if qemu_listener is not None:
                qemu_listener.close()


def _key(vm: VmConfig) -> tuple[str, str | None]:
    return str(vm.listen), vm.takeover
