"""The standard descriptors: no file of the guard's, and no socket, must ever get the number of standard error.

And the last line of a command, which waits for nobody.
"""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

#: input, output, error
STANDARD = range(3)
#: seconds that the last line of a command waits to be read
POLL_TIMEOUT = 2.0


def hold_standard_descriptors() -> None:
    """Open /dev/null in the place of standard descriptors that are closed.

    Else the next file or socket would get such a number, and the log be written into it, were it QEMU's own socket.
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one (open(2))
            os.set_inheritable(number, True)


def complain(line: str) -> None:
    """Print a line to standard error, where that is possible and somebody reads it soon. Never raises."""
    if sys.stderr is None or not _takes(sys.stderr):
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:  # its reader is gone, or its disk is full
        _silence()


def _silence() -> None:
    """Let what is still buffered go nowhere: Python tries again when it ends, and would end with status 120."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, STANDARD[-1])
    os.close(null)


def _takes(file: TextIO) -> bool:
    """Say whether a file can be written to soon; one that has no descriptor can."""
    try:
        poll = select.poll()
        poll.register(file.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return True
    return bool(poll.poll(POLL_TIMEOUT * 1000))
