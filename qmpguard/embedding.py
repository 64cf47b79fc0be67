"""A guard inside a program, such as a test suite that drives a real QEMU: `guarding`, and what it yields, a `Guard`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from qmpguard.address import parse_address
from qmpguard.config import VmConfig
from qmpguard.daemon.guard import GuardedVm
from qmpguard.errors import UnavailableError
from qmpguard.policy.policy import Policy
from qmpguard.record import Decision
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmpguard.proxy.state.snapshot import Snapshot
    from qmpguard.proxy.vm import Vm

#: seconds that `guarding` waits for QEMU; it starts in a fifth of one
START_TIMEOUT = 20.0


class Guard:
    """A running guard. Nothing here waits, asks QEMU or raises."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    @property
    def refused(self) -> int:
        """The number of requests that were refused since the guard began."""
        return self._vm.counts.refused

    def snapshot(self) -> Snapshot:
        """Return all that is known of the VM at this moment: its link, what QEMU was last seen to be, the forecasts."""
        return self._vm.snapshot()

    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions on record, oldest first; a long-lived guard keeps about the last thousand."""
        return tuple(entry.what for entry in self._vm.journal.since(0) if isinstance(entry.what, Decision))


@asynccontextmanager
async def guarding(qemu: str, listen: str, *, name: str = "vm", policy: Policy | None = None) -> AsyncGenerator[Guard]:
    """Guard a QEMU in this process for as long as the block lasts.

    ``qemu`` and ``listen`` are addresses as on the command line, ``name`` names the VM in the log. The block begins
    when QEMU answers and clients can connect. Raises `UsageError` when an address cannot be read, and
    `UnavailableError` when ``listen`` cannot be had or when QEMU has not answered within 20 seconds. An exception of
    the block itself is raised as it is.
    """
    guarded = GuardedVm(VmConfig(name, parse_address(qemu), parse_address(listen), policy or Policy()))
    vm = guarded.vm
    vm.connections.listener = guarded.open_for_qemu()
    guarded.listen(guarded.open())
    try:
        async with Tasks(f"vm={name}", vm.counts.faults) as tasks:
            task = tasks.start("guard", guarded.run())
            await _wait_for_qemu(vm, qemu)
            yield Guard(vm)
            task.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None  # the exception of the block itself, unwrapped


async def _wait_for_qemu(vm: Vm, qemu: str) -> None:
    """Wait for the link. Raises `UnavailableError` after `START_TIMEOUT` seconds."""
    try:
        async with asyncio.timeout(START_TIMEOUT):
            await vm.connected.wait()
    except TimeoutError:
        reason = vm.recorder.standing.reason
        raise UnavailableError(f"QEMU did not answer at {qemu} within {START_TIMEOUT:g} s: {reason}") from None
