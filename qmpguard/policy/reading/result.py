"""What comes of reading a request: an operation, nothing to judge, or arguments that are not understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from qmpguard.policy.operations import Operation
from qmpguard.policy.values import MAX_VALUES
from qmpguard.wire.json import Value


@dataclass(frozen=True, slots=True)
class Harmless:
    """What passes without a look at the machine: it can only lead away from harm, or does not concern VFIO."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Arguments that the reader does not understand: refused, since nobody knows what QEMU would make of them."""

    reason: str


#: entries of a list that are looked through, and arguments: QEMU has some thirty capabilities, and some hundred
#: properties of a device; nobody else is to wait for a client's million
MAX_ENTRIES = 1024

#: what is said of a request that is too large to be looked through
TOO_MANY = Unreadable(f"it has more than {MAX_VALUES} values")

Reading: TypeAlias = Operation | Harmless | Unreadable
Arguments: TypeAlias = Mapping[str, Value]
