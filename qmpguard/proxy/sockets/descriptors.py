"""Received file descriptors: an owner that closes exactly once; and the part of the table reserved for the guard."""

from __future__ import annotations

import os
import resource
import warnings

#: The part of the descriptor table that clients cannot use: a quarter. A VM needs three descriptors (its listener two,
#: its link one). At 1,024 open files that is enough for 80 VMs whose QEMUs reconnect at once.
RESERVED_PART = 4


def is_reserved(number: int) -> bool:
    """Say whether a client's descriptor is in the reserved part of the table. The caller then closes it at once.

    The kernel assigns the lowest free number (open(2)), so a number there means that the table is nearly full.
    Descriptors that the guard opens for itself are not checked.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and number >= limit - limit // RESERVED_PART


class Descriptor:
    """One received descriptor. Its holder must pass it on or close it; otherwise a `ResourceWarning` is issued."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return the descriptor's number; -1 once it is closed."""
        return self._number

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        if self._number >= 0:
            warnings.warn(f"descriptor {self._number} was neither passed on nor closed", ResourceWarning, stacklevel=1)
            self.close()


def close_all(descriptors: list[Descriptor]) -> None:
    """Close every descriptor of a list and empty it."""
    for descriptor in descriptors:
        descriptor.close()
    descriptors.clear()
