"""File descriptors on their way from one socket to another: an owner that closes exactly once."""

from __future__ import annotations

import os
import warnings


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
