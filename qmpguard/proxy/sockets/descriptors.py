"""File descriptors on their way from one socket to another: an owner that closes exactly once.

And which of them clients may use: the last part of the process's table is kept for what the guard itself opens.
"""

from __future__ import annotations

import os
import resource
import warnings

#: The part of the descriptor table that clients cannot use: a quarter. A VM needs five descriptors (its listener two,
#: its link one, the control session two), so at 1,024 open files 50 VMs whose QEMUs all come back at once find theirs.
RESERVED_PART = 4


def is_reserved(number: int) -> bool:
    """Return whether a descriptor that a client has caused is in the reserved part of the table: close it at once.

    The kernel gives the lowest free number (open(2)), so such a number tells that the table is nearly full. Descriptors
    that the guard opens for itself are never asked about.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and number >= limit - limit // RESERVED_PART


class Descriptor:
    """One received descriptor. Whoever holds it passes it on or closes it; forgetting it is warned about."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return the descriptor's number; -1 once it is closed."""
        return self._number

    def close(self) -> None:
        """Close it; a second time does nothing."""
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
