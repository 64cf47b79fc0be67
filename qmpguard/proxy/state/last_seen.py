"""What was last seen of a VM, for those who show it. Nothing is judged by it: the gate asks QEMU anew each time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.policy.facts import Facts
from qmpguard.policy.forecast import as_it_stands, forecasts
from qmpguard.policy.migration import OVER, Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.device import Device
    from qmpguard.policy.forecast import Forecast
    from qmpguard.policy.policy import Policy
    from qmpguard.wire.qemu_messages import QemuEvent

#: steps of one migration that are kept: a dozen is usual, a postcopy that is paused and recovered has more
MAX_STEPS = 64
#: characters of a status; QEMU's longest has 22
MAX_STATUS = 40
#: QEMU's events after which what is seen here is to be looked at anew
TELLING = frozenset({"MIGRATION", "STOP", "RESUME", "SUSPEND", "WAKEUP", "SHUTDOWN"})


@dataclass(frozen=True, slots=True)
class Step:
    """A migration's status, and since when, in seconds since the epoch."""

    time: float
    status: str


@dataclass(frozen=True, slots=True)
class MigrationHistory:
    """The history of the last or present migration: its statuses in order, and how far it has come."""

    steps: tuple[Step, ...] = ()
    progress: Progress | None = None

    @property
    def status(self) -> str:
        """The latest status; ``none`` before the first migration."""
        return self.steps[-1].status if self.steps else "none"

    @property
    def under_way(self) -> bool:
        """Say whether a migration is neither over nor still to come."""
        return bool(self.steps) and self.status not in OVER

    def at(self, time: float, status: str, progress: Progress | None = None) -> MigrationHistory:
        """Return the history with a status: the next step, the same one further on, or the first of another migration.

        QEMU says ``none`` before its first migration only, so it adds nothing here.
        """
        if status == "none":
            return self
        if status == self.status:
            return replace(self, progress=progress or self.progress)
        if not self.under_way:
            return MigrationHistory((Step(time, status),), progress)
        return MigrationHistory((*self.steps, Step(time, status))[-MAX_STEPS:], progress or self.progress)


class LastSeen:
    """What one QEMU has shown so far: the facts, and the history of its migration. ``clock`` is since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.facts = Facts()
        self.history = MigrationHistory()
        self.time: float | None = None  # of the last look or survey
        self._clock = clock
        self._judged: tuple[Facts, Policy, tuple[Forecast, ...]] | None = None
        self._overtaken = False  # an event came while the present look was under way: it knows better

    def begins(self) -> None:
        """Called when a look or a survey begins."""
        self._overtaken = False

    def saw(self, facts: Facts) -> None:
        """Take what a look or a survey has seen; what it did not ask for stays as it was."""
        self.time = self._clock()
        self.facts = _merged(self.facts, facts)
        if facts.migration is not None and not self._overtaken:
            self.history = self.history.at(self.time, facts.migration.status, facts.migration.progress)

    def forecasts(self, policy: Policy) -> tuple[Forecast, ...]:
        """Return the forecasts from what was seen; judged once for the same facts and the same policy."""
        judged = self._judged
        if judged is None or judged[0] is not self.facts or judged[1] is not policy:
            judged = self._judged = (
                self.facts,
                policy,
                (as_it_stands(self.facts, policy), *forecasts(self.facts, policy)),
            )
        return judged[2]

    def opened_block_node(self) -> None:
        """Called when QEMU has opened a block node that is a VFIO device: the next look asks for them again."""
        self.facts = replace(self.facts, blocks=None)

    def started(self) -> None:
        """Called when QEMU has accepted a migration; unless an event was faster, it is being set up."""
        if not self.history.under_way:
            self.history = self.history.at(self._clock(), "setup")

    def happened(self, event: QemuEvent) -> bool:
        """Take an event of QEMU; say whether it calls for another look."""
        if event.name == "MIGRATION":
            self.history = self.history.at(self._clock(), str(event.data.get("status", "none"))[:MAX_STATUS])
            self._overtaken = True
        return event.name in TELLING


def _merged(known: Facts, seen: Facts) -> Facts:
    devices = known.devices if seen.devices is None else seen.devices
    others = known.others if seen.others is None else seen.others
    standbys = known.standbys if others == known.others else None
    return replace(
        seen,
        capabilities=known.capabilities if seen.capabilities is None else seen.capabilities,
        devices=devices,
        others=others,
        details=_detailed(devices, known.details) if seen.details is None else seen.details,
        standbys=standbys if seen.standbys is None else seen.standbys,
        runstate=seen.runstate or known.runstate,
        migration=seen.migration or known.migration,
        blocks=known.blocks if seen.blocks is None else seen.blocks,
        commands=None,  # thousands of names that nobody shows
    )


def _detailed(devices: tuple[Device, ...] | None, known: tuple[Device, ...] | None) -> tuple[Device, ...] | None:
    """Return the devices with the details that are known; None where those of one are not."""
    by_path = {(device.path, device.driver): device for device in known or ()}
    if devices is None or any((device.path, device.driver) not in by_path for device in devices):
        return None
    return tuple(by_path[device.path, device.driver] for device in devices)
