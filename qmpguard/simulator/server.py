"""A simulated QEMU at a socket: a machine and its monitor."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.address import UnixAddress
from qmpguard.simulator.machine import SimulatedMachine
from qmpguard.simulator.monitor import SimulatedMonitor

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from qmpguard.address import Address
    from qmpguard.recording.lines import Members
    from qmpguard.simulator.description import Description


class SimulatedQemu:
    """A simulated QEMU that listens at an address as soon as its ``monitor`` has begun."""

    def __init__(self, description: Description, address: Address) -> None:
        self.machine = SimulatedMachine(description, self.emit, _schedule)
        self.monitor = SimulatedMonitor(address, self.machine, description.faults)

    def emit(self, event: str, data: Members | None = None) -> None:
        """Send an event to the client that is connected, if it has negotiated."""
        self.monitor.send_event(event, data)


def _schedule(seconds: float, callback: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, callback)


@asynccontextmanager
async def simulating(description: Description, address: Address) -> AsyncGenerator[SimulatedQemu]:
    """Simulate a QEMU at an address for as long as the block lasts.

    The block begins when clients can connect. Raises `UsageError` for a descriptor, and `UnavailableError` where the
    socket cannot be had.
    """
    qemu = SimulatedQemu(description, address)
    async with qemu.monitor:
        try:
            yield qemu
        finally:
            if isinstance(address, UnixAddress):
                _unlink(address.path)


def _unlink(path: str) -> None:
    with suppress(OSError):
        Path(path).unlink()
