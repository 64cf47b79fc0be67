"""One guarded VM: a hub, and the socket that its clients come in by."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from qmpguard.address import parse_address
from qmpguard.config import VmConfig
from qmpguard.daemon.systemd import Sockets
from qmpguard.errors import UnavailableError
from qmpguard.policy.policy import Policy
from qmpguard.proxy.hub import Hub
from qmpguard.proxy.limits import Limits
from qmpguard.proxy.listener import Listener
from qmpguard.proxy.takeover import take_over

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmpguard.proxy.budget import Budget
    from qmpguard.proxy.schemas import Schemas
    from qmpguard.record import Run

#: seconds that replies may still take after a signal to stop
DRAIN = 5.0
#: seconds that `guarding` waits for QEMU; it starts in a fifth of one
START = 20.0


class Guard:
    """One guarded VM. What its config says can change while it runs, but for where QEMU is."""

    def __init__(
        self,
        config: VmConfig,
        schemas: Schemas | None = None,
        sockets: Sockets | None = None,
        run: Run | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.config = config
        self.listening = asyncio.Event()
        self.listener: Listener | None = None
        self.hub = Hub(config.name, config.qemu, config.policy, limits(config), schemas, run, budget)
        self._sockets = sockets or Sockets()

    def open(self, config: VmConfig | None = None) -> Listener:
        """Return an open socket for the clients, of the present config or of one to come.

        Raises `UnavailableError` or `ConfigError` when it cannot be had.
        """
        config = config or self.config
        if config.takeover is not None:
            return take_over(config.takeover, self.hub.attach)
        address = self._sockets.resolve(config.listen)
        mode, group = config.socket_mode, config.socket_group
        return Listener(address, self.hub.attach, mode=mode, group=group, label=f"vm={config.name}")

    def listen(self, listener: Listener) -> None:
        """Take the clients of an open socket from now on."""
        self.listener = listener
        listener.accepted = self.hub.attach
        listener.label = f"vm={self.config.name}"
        listener.on_full = self.hub.counts.no_descriptors
        self.listening.set()

    def adopt(self, config: VmConfig) -> None:
        """Follow a config that differs in anything but where QEMU is. Clients stay, and verdicts that are under way."""
        self.config = config
        self.hub.adopt(config.policy, limits(config))

    async def run(self) -> None:
        """Guard until cancelled. Raises what `open` raises when there is no socket yet."""
        if self.listener is None:
            self.listen(self.open())
        assert self.listener is not None
        try:
            async with asyncio.TaskGroup() as tasks:
                if (place := self.listener.place) is not None:
                    tasks.create_task(place.keep(self.listener, self.hub.connected))
                await self.hub.run()
        finally:
            self.close()

    async def drain(self) -> None:
        """Take no more clients or requests, and wait a little for the replies that are under way."""
        self.close()
        self.hub.quiesce()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                await self.hub.drained.wait()

    def close(self) -> None:
        """Take no more clients."""
        if self.listener is not None:
            self.listener.close()


@asynccontextmanager
async def guarding(qemu: str, listen: str, *, name: str = "vm", policy: Policy | None = None) -> AsyncGenerator[Guard]:
    """Guard a QEMU in this process for as long as the block lasts: for test suites that drive a real QEMU.

    ``qemu`` and ``listen`` are addresses as on the command line. The block begins when QEMU answers and clients are
    served. Raises `UnavailableError` when that takes too long or when ``listen`` cannot be had, and `UsageError` for
    what is no address.
    """
    guard = Guard(VmConfig(name, parse_address(qemu), parse_address(listen), policy or Policy()))
    guard.listen(guard.open())
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(guard.run())
            await _answered(guard, qemu)
            yield guard
            task.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None  # what the block itself has raised stays what it was


async def _answered(guard: Guard, qemu: str) -> None:
    try:
        async with asyncio.timeout(START):
            await guard.hub.connected.wait()
    except TimeoutError:
        raise UnavailableError(f"QEMU did not answer at {qemu} within {START:g} s") from None


def limits(config: VmConfig) -> Limits:
    """Return what a config says of the clients."""
    return Limits(
        survey_timeout=config.survey_timeout,
        watch=config.watch,
        max_clients=config.max_clients,
        max_request=config.max_request,
        access=config.access,
        role=config.role,
    )
