"""The only monitor of a QEMU that the guard starts: a socket pair, and how QEMU is told of its end."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: seconds that the guard waits for the end of the link after QEMU has ended; a child of QEMU may hold the socket open
LINGER = 1.0
#: signals that Python ignores, and other programs do not expect to be ignored
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class MonitorPair:
    """Two connected sockets: ``ours`` is the guard's end, ``theirs`` is QEMU's. No other process has either."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        number = self.theirs.fileno()
        self.options = ("-chardev", f"socket,id=qmpguard,fd={number}", "-mon", "chardev=qmpguard,mode=control")

    def give(self) -> int:
        """Let a program that is started now inherit QEMU's end, and return its descriptor."""
        os.set_inheritable(self.theirs.fileno(), True)
        return self.theirs.fileno()


def inheritable() -> Iterator[int]:
    """Yield the descriptors, but for the standard ones, that a program started now would inherit."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        with suppress(OSError):  # that of the directory itself
            if number > 2 and os.get_inheritable(number):
                yield number


def environment() -> dict[str, str]:
    """Return QEMU's environment: ours, without the guard's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QMPGUARD_")}
