"""One guarded VM: its `Vm`, the listening socket for its clients, and for an inbound QEMU that for QEMU.

A fault affects its own VM only: `GuardedVm.run` ends only when it is cancelled. An exception in it is logged and
counted in the VM's counts, and the failed part restarts after `RESTART_DELAY` seconds.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from qmpguard.address import Inbound
from qmpguard.config import Absent, VmConfig
from qmpguard.daemon.exposure import exposure
from qmpguard.daemon.own_sockets import own_names
from qmpguard.daemon.systemd import PassedSockets
from qmpguard.errors import UnavailableError
from qmpguard.policy.facts import Facts
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.listening.listener import Listener
from qmpguard.proxy.listening.qemu_listener import QemuListener, duplicate_listening
from qmpguard.proxy.listening.takeover import take_over
from qmpguard.proxy.qemu.absence import Cause
from qmpguard.proxy.qemu.connections import Presence
from qmpguard.proxy.sockets.dial import check
from qmpguard.proxy.vm import Vm
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.address import Address, ListenAddress
    from qmpguard.proxy.judging.schemas import Schemas
    from qmpguard.proxy.listening.path_keeper import PathKeeper
    from qmpguard.proxy.sockets.budget import Budget
    from qmpguard.record import Run

log = logging.getLogger(__name__)

#: seconds that a stop waits for pending replies
DRAIN_TIMEOUT = 5.0
#: seconds before a failed part restarts
RESTART_DELAY = 1.0
#: the presences of a QEMU that was connected and is not any more
_GONE = frozenset({Presence.LOST, Presence.ENDED})


class GuardedVm:
    """One guarded VM. Its config can change while it runs, except for QEMU's address.

    ``on_presence`` is called when QEMU's presence has changed.
    """

    def __init__(
        self,
        config: VmConfig,
        schemas: Schemas | None = None,
        sockets: PassedSockets | None = None,
        run: Run | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.config = config
        self.listening = asyncio.Event()
        self.listener: Listener | None = None
        self.vm = Vm(config.name, config.qemu, config.policy, config.limits, schemas, run, budget)
        self._give_facts()
        self.vm.connections.on_presence = self._on_presence
        self.on_presence: Callable[[], None] = _ignore
        self._sockets = sockets or PassedSockets()
        self._exposure = ""  # that QEMU can connect to its own monitor
        self._fault = ""  # why the clients' socket cannot be opened; empty: it is open, or closed on purpose
        self._retry: asyncio.TimerHandle | None = None

    # sockets

    def open(self, config: VmConfig | None = None) -> Listener:
        """Return a listening socket for the clients, for this config or another one.

        Raises `UnavailableError` or `ConfigError` when it cannot be opened.
        """
        config = config or self.config
        if config.takeover is not None:
            return take_over(config.takeover, self.vm.attach)
        mode, group = config.socket_mode, config.socket_group
        return Listener(self._owned(config.listen), self.vm.attach, mode=mode, group=group, label=f"vm={config.name}")

    def open_for_qemu(self) -> QemuListener | None:
        """Return a listening socket for a QEMU that connects to the guard; None where the guard connects to QEMU.

        Raises `UnavailableError` or `ConfigError` when it cannot be opened, or a passed descriptor is not a connection.
        """
        if isinstance(self.config.qemu, Inbound):
            return QemuListener(self._owned(self.config.qemu.at), str(self.config.qemu.at))
        check(self.config.qemu)
        return None

    def _owned(self, address: ListenAddress) -> Address:
        """Return an address to listen at; of a socket that was passed a duplicate, which may be closed."""
        resolved = self._sockets.resolve(address)
        return duplicate_listening(resolved) if resolved is address else resolved

    def listen(self, listener: Listener) -> None:
        """Serve the clients of a listening socket."""
        self.listener = listener
        listener.on_accept = self.vm.attach
        listener.label = f"vm={self.config.name}"
        listener.on_full = self.vm.counts.no_descriptors
        if listener.path_keeper is not None:
            self.vm.connections.address = listener.path_keeper.qemu
        self._give_facts()
        self.listening.set()
        self._admit()

    def refuses(self, config: VmConfig) -> bool:
        """Say whether a config refuses clients now: as at QEMU's own socket, after QEMU has gone."""
        return config.absent is Absent.REFUSE and self.vm.connections.presence in _GONE

    def _on_presence(self) -> None:
        if self.vm.connections.presence is Presence.LINKED:
            self._exposure = exposure(self.vm.connections.address, self.vm.process)
        self._admit()
        self.on_presence()

    def _admit(self) -> None:
        """Suspend or resume the clients' socket, by QEMU's presence."""
        if self._retry is not None:
            self._retry.cancel()
        self._fault, before = "", self._fault
        if self.listener is None:
            return
        if self.refuses(self.config):
            self.listener.suspend()
            return
        try:
            self.listener.resume()
        except UnavailableError as error:
            self._fault = f"clients cannot connect: {error}"
            if self._fault != before:
                log.error("vm=%s %s; trying again every %g s", self.config.name, self._fault, RESTART_DELAY)
            self._retry = asyncio.get_running_loop().call_later(RESTART_DELAY, self._admit)

    def remark(self) -> str:
        """Return a note about the sockets of clients and of QEMU; empty: no note."""
        path_keeper = self.listener.path_keeper if self.listener is not None else None
        unprotected = path_keeper.unprotected if path_keeper is not None else ""
        moved = f"QEMU's socket is not in a directory of the guard's own: {unprotected}" if unprotected else ""
        return "; ".join(filter(None, (self._fault, moved, self._exposure)))

    # life cycle

    def adopt(self, config: VmConfig) -> None:
        """Apply a config that differs in anything but QEMU's address. Clients and pending verdicts stay.

        The caller calls `listen` next.
        """
        self.config = config
        self._give_facts()
        self.vm.adopt(config.policy, config.limits)

    def _give_facts(self) -> None:
        """Give the gate the facts that the config and the guard's sockets tell."""
        listening = (self.listener, self.vm.connections.listener)
        own = own_names(self.config, (listener.sockname for listener in listening if listener is not None))
        self.vm.gate.given = Facts(own=own, netdevs=self.config.netdevs)

    async def run(self) -> None:
        """Guard until cancelled. Raises the errors of `open` and `open_for_qemu` where the sockets are not open yet."""
        if self.listener is None:
            self.listen(self.open())
        assert self.listener is not None
        if self.vm.connections.listener is None:
            self.vm.connections.listener = self.open_for_qemu()
            self._give_facts()
        try:
            async with Tasks(f"vm={self.config.name}", self.vm.counts.faults) as tasks:
                if (path_keeper := self.listener.path_keeper) is not None:
                    tasks.start("takeover", self._keep_takeover(tasks, self.listener, path_keeper))
                await self._serve(tasks)
        finally:
            self.close()

    async def _serve(self, tasks: Tasks) -> None:
        """Run the VM until cancelled; restart it after an exception."""
        while True:
            try:
                await self.vm.run()
            except Exception as error:  # noqa: BLE001 -- a fault of one VM must not reach another
                tasks.record("hub", error)
                self.vm.recorder.absent(f"failed: {error!r}"[:200], Cause.FAULT.value)
            await asyncio.sleep(RESTART_DELAY)

    async def _keep_takeover(self, tasks: Tasks, listener: Listener, path_keeper: PathKeeper) -> None:
        while True:
            try:
                await path_keeper.keep(listener, self.vm.connected)
            except Exception as error:  # noqa: BLE001 -- the link stays up, and the next check follows
                tasks.record("takeover", error)
            await asyncio.sleep(RESTART_DELAY)

    async def drain(self) -> None:
        """Stop accepting clients and requests, and wait at most `DRAIN_TIMEOUT` for pending replies."""
        self.vm.connections.stop()
        self._stop_listening()
        self.vm.quiesce()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT):
                await self.vm.sessions.drained.wait()

    def close(self) -> None:
        """Close the listening sockets and every client, also if the VM has never run."""
        self._stop_listening()
        self.vm.connections.close()
        self.vm.sessions.close_all(CloseReason.STOPPED)

    def _stop_listening(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self.listener is not None:
            self.listener.close()


def _ignore() -> None:
    pass
