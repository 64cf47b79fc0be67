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


class Batch:
    """The descriptors that a client sent last. They belong to the request that they came with.

    A read ends with the bytes that descriptors came with, but may begin with older ones (unix(7)). So requests that end
    within it may be earlier ones and leave the descriptors alone, unless they take one. ``data`` is the read.
    Some send a blank with the descriptor (qemu.qmp: send_fd_scm); it then belongs to the request that follows.
    """

    __slots__ = ("_descriptors", "ahead", "read")

    def __init__(self, descriptors: list[Descriptor], data: bytes) -> None:
        self.ahead = data[-1:] == b" " or not data.strip()  # the request is still to come
        self.read = False  # the next request to end is theirs
        self._descriptors = descriptors

    def take(self) -> Descriptor:
        """Return the first and close the rest, as QEMU does (monitor/fds.c: qemu_chr_fe_get_msgfd)."""
        first = self._descriptors.pop(0)
        self.close()
        return first

    def close(self) -> None:
        """Close all of them."""
        close_all(self._descriptors)


def close_all(descriptors: list[Descriptor]) -> None:
    """Close every descriptor of a list and empty it."""
    for descriptor in descriptors:
        descriptor.close()
    descriptors.clear()
