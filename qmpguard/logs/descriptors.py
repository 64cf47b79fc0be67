"""The standard descriptors 0, 1 and 2: no file or socket of the guard may get one of these numbers.

Also the error line that a command prints last, with a timeout.
"""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

#: standard input, output and error
STANDARD = range(3)
#: seconds that an error line waits until standard error is writable
POLL_TIMEOUT = 2.0


def hold_standard_descriptors() -> None:
    """Open /dev/null in place of each closed standard descriptor.

    Otherwise the next file or socket would get the number, and the log would be written into it, even into QEMU's
    socket.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # open(2) returns the lowest free number: this one
            os.set_inheritable(number, True)


def print_error(line: str) -> None:
    """Print a line to standard error, if it is writable within `POLL_TIMEOUT`. Never raises."""
    if sys.stderr is None or not _is_writable(sys.stderr):
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # the reader has closed the pipe, or the disk is full
        _discard_buffered()


def _discard_buffered() -> None:
    """Redirect standard error to /dev/null.

    Otherwise Python flushes again at exit, fails, and exits with status 120.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STANDARD[-1])
    os.close(null)


def _is_writable(file: TextIO) -> bool:
    """Say whether a file is writable within `POLL_TIMEOUT`; True for a file without a descriptor."""
    try:
        poll = select.poll()
        poll.register(file.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return True
    return bool(poll.poll(POLL_TIMEOUT * 1000))
