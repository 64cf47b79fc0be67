"""The faults of a soak: which, when and at which VM, all made from a seed. It knows no sockets and no processes."""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: seconds between two faults, at least and at most
PAUSE = (0.5, 2.5)
#: seconds that a fault lasts, at least and at most: shorter than the heartbeat's 20 s, and longer
LASTS = (1.0, 25.0)


class Part(Enum):
    """The part of the soak that makes a fault."""

    SIMULATED = "simulated QEMU"
    REAL = "real QEMU"
    CLIENT = "client"
    GUARD = "guard"


class Kind(Enum):
    """A fault: its name, the part that makes it, and its share of all faults."""

    KILLED = ("killed", Part.SIMULATED, 6)
    STOPPED = ("stopped", Part.SIMULATED, 6)
    SLOW = ("slow", Part.SIMULATED, 4)
    HALF = ("half-a-reply", Part.SIMULATED, 4)
    NONSENSE = ("nonsense", Part.SIMULATED, 4)
    FOREIGN = ("foreign-id", Part.SIMULATED, 2)
    EVENTS = ("storm-of-events", Part.SIMULATED, 2)
    REAL_KILLED = ("real-killed", Part.REAL, 3)
    REAL_STOPPED = ("real-stopped", Part.REAL, 3)
    DEAF = ("never-reads", Part.CLIENT, 2)
    BYTES = ("one-byte-a-second", Part.CLIENT, 5)
    CROWD = ("storm-of-clients", Part.CLIENT, 2)
    JUNK = ("junk", Part.CLIENT, 4)
    LEAVES = ("leaves-half-way", Part.CLIENT, 6)
    BIG = ("big-request", Part.CLIENT, 1)
    RELOAD = ("reload", Part.GUARD, 3)
    BAD_RELOAD = ("bad-reload", Part.GUARD, 1)
    OVERRIDE = ("override", Part.GUARD, 1)

    def __init__(self, label: str, part: Part, share: int) -> None:
        self.label, self.part, self.share = label, part, share


class Blow(NamedTuple):
    """One fault at one VM. ``at``: seconds from the beginning; ``seconds``: how long it lasts."""

    at: float
    kind: Kind
    vm: str
    seconds: float

    @property
    def line(self) -> str:
        """The order for the process that makes it."""
        return f"{self.kind.label} {self.vm} {self.seconds:.2f}\n"


def plan(seed: int, seconds: float, simulated: Sequence[str], real: Sequence[str]) -> Iterator[Blow]:
    """Yield the faults of so many seconds, in their order. The VMs are those that faults may meet."""
    random = Random(seed)
    kinds = [kind for kind in Kind if real or kind.part is not Part.REAL]
    at = random.uniform(*PAUSE)
    while at < seconds:
        (kind,) = random.choices(kinds, [each.share for each in kinds])
        vm = random.choice(real if kind.part is Part.REAL else simulated)
        yield Blow(at, kind, vm, random.uniform(*LASTS))
        at += random.uniform(*PAUSE)
