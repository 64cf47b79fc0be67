"""The result of reading a request: an operation, a harmless request, or unreadable arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from qmpguard.policy.argument_values import MAX_VALUES
from qmpguard.policy.operations import Operation
from qmpguard.wire.json import Value


@dataclass(frozen=True, slots=True)
class Harmless:
    """A request that passes without a survey: it can only make the VM safer, or does not concern any rule."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Arguments that the reader does not understand: refused, since their effect in QEMU is unknown."""

    reason: str


#: entries of a list, and arguments, that are read: QEMU has some thirty capabilities, and a device some hundred
#: properties. A client's million entries must not delay other clients
MAX_ENTRIES = 1024

#: what is said of a request that is too large to be looked through
TOO_MANY = Unreadable(f"it has more than {MAX_VALUES} values")

Reading: TypeAlias = Operation | Harmless | Unreadable
Arguments: TypeAlias = Mapping[str, Value]
