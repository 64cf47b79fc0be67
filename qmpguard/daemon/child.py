"""QEMU as a child of the guard: its only monitor is a socket pair that nobody else holds an end of.

Signals go to it from whichever thread takes them, so also while the event loop hangs; one that comes before it runs
keeps it from being started. It is waited for by a thread, and never signalled after it was waited for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

from qmpguard.daemon.openfiles import limit_of
from qmpguard.errors import UsageError
from qmpguard.signals import BY_SIGNAL, TO_CHILD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

#: what is sent to us and meant for QEMU
FORWARDED = tuple(sorted(TO_CHILD))
#: seconds in which the link ends, and the guard with it, when QEMU has ended; a child of QEMU's may hold it open
LINGER = 1.0
#: signals that Python ignores, and other programs do not expect to be ignored
_PYTHONS = (signal.SIGPIPE, signal.SIGXFSZ)


class Child:
    """A QEMU to be started with a command line and a soft limit on open files.

    ``status`` is its exit status once it has ended.
    """

    def __init__(self, command: Sequence[str], files: int) -> None:
        self.status: int | None = None
        self._files = files
        self._ours, self._theirs = socket.socketpair()
        number = self._theirs.fileno()
        monitor = ("-chardev", f"socket,id=qmpguard,fd={number}", "-mon", "chardev=qmpguard,mode=control")
        self._command = (*command, *monitor)
        self._lock = Lock()  # of the three that follow
        self._pid = 0  # while it runs, or has not been waited for
        self._begun = False
        self._early = 0  # the signal that came before it was started
        self._ended = asyncio.Event()

    def detach(self) -> int:
        """Return the descriptor of the guard's end, which is the caller's from now on."""
        return self._ours.detach()

    def close(self) -> None:
        """Close QEMU's end, if it was not handed over."""
        self._theirs.close()

    def start(self) -> None:
        """Start it, unless a signal was meant for it already. Raises `UsageError` where it cannot be started."""
        loop = asyncio.get_running_loop()
        with self._lock, self._theirs:
            self._begun = True
            if self._early:
                self._end(BY_SIGNAL + self._early)
                return
            try:
                self._pid = self._spawn()
            except (OSError, ValueError) as error:
                self._ended.set()
                reason = getattr(error, "strerror", None) or error
                raise UsageError(f"cannot run {self._command[0]}: {reason}") from error
        Thread(target=self._wait, args=(loop,), name="qemu", daemon=True).start()

    async def run(self, stop: asyncio.Event) -> None:
        """Set ``stop`` when it has ended, and a little later, so that its last words arrive."""
        await self.ended()
        await asyncio.sleep(LINGER)
        stop.set()

    async def ended(self) -> None:
        """Wait until it has ended; at once where it was never started."""
        if self._begun:
            await self._ended.wait()

    def forward(self, number: int) -> None:
        """Send a signal to QEMU if it runs; one that comes before that keeps it from running. Any thread."""
        with self._lock:
            if self._pid:
                os.kill(self._pid, number)
            elif not self._begun:
                self._early = self._early or number

    def _spawn(self) -> int:
        os.set_inheritable(self._theirs.fileno(), True)
        closing = [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable() if number != self._theirs.fileno()]
        with limit_of(self._files):
            return os.posix_spawnp(
                self._command[0],
                self._command,
                _environment(),
                file_actions=closing,
                setsigmask=(),
                setsigdef=_PYTHONS,
            )

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for the end of the process, in a thread."""
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        with suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(self._end, code if code >= 0 else BY_SIGNAL - code)

    def _end(self, status: int) -> None:
        self.status = status
        log.info("qemu=ended status=%d", status)
        self._ended.set()


def forwarding(child: Child) -> dict[int, Callable[[], None]]:
    """Return what is to be done at each signal that is meant for QEMU."""

    def send(number: int) -> Callable[[], None]:
        return lambda: child.forward(number)

    return {number: send(number) for number in FORWARDED}


def _inheritable() -> Iterator[int]:
    """Yield the descriptors, but for the standard ones, that a program started now would get."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        with suppress(OSError):  # that of the directory itself
            if number > 2 and os.get_inheritable(number):
                yield number


def _environment() -> dict[str, str]:
    """Return QEMU's environment: ours, without what is only for us."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QMPGUARD_")}
