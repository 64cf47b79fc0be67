"""QEMU as a child process of the guard. Its only monitor is one end of a socket pair; the guard holds the other.

Any thread may forward a signal to QEMU, so signals arrive also while the event loop hangs. A signal that arrives before
QEMU is started prevents the start. A thread waits for QEMU's end. After waitpid(2) QEMU is never signalled.
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

from qmpguard.daemon.openfiles import soft_limit
from qmpguard.errors import UsageError
from qmpguard.signals import EXIT_BY_SIGNAL, TO_CHILD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

#: the signals that are forwarded to QEMU
FORWARDED = tuple(sorted(TO_CHILD))
#: seconds that the guard waits for the end of the link after QEMU has ended; a child of QEMU may hold the socket open
LINGER = 1.0
#: signals that Python ignores, and other programs do not expect to be ignored
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Child:
    """A QEMU that is started with a command line and a soft limit on open files.

    ``status`` is QEMU's exit status; None until QEMU has ended.
    """

    def __init__(self, command: Sequence[str], files: int) -> None:
        self.status: int | None = None
        self._files = files
        self._ours, self._theirs = socket.socketpair()
        number = self._theirs.fileno()
        monitor = ("-chardev", f"socket,id=qmpguard,fd={number}", "-mon", "chardev=qmpguard,mode=control")
        self._command = (*command, *monitor)
        self._lock = Lock()  # guards the next three attributes
        self._pid = 0  # QEMU's, from its start until waitpid(2)
        self._begun = False
        self._early = 0  # the first signal that arrived before the start
        self._ended = asyncio.Event()

    def detach(self) -> int:
        """Return the descriptor of the guard's end of the pair; the caller owns it."""
        return self._ours.detach()

    def close(self) -> None:
        """Close QEMU's end of the pair, if QEMU was not started."""
        self._theirs.close()

    def start(self) -> None:
        """Start QEMU, unless a signal for it has arrived. Raises `UsageError` where it cannot be started."""
        loop = asyncio.get_running_loop()
        with self._lock, self._theirs:
            self._begun = True
            if self._early:
                self._end(EXIT_BY_SIGNAL + self._early)
                return
            try:
                self._pid = self._spawn()
            except (OSError, ValueError) as error:
                self._ended.set()
                reason = getattr(error, "strerror", None) or error
                raise UsageError(f"cannot run {self._command[0]}: {reason}") from error
        Thread(target=self._wait, args=(loop,), name="qemu", daemon=True).start()

    async def run(self, stop: asyncio.Event) -> None:
        """Set ``stop`` `LINGER` seconds after QEMU has ended, so that its last messages arrive."""
        await self.ended()
        await asyncio.sleep(LINGER)
        stop.set()

    async def ended(self) -> None:
        """Return when QEMU has ended; at once where it was never started."""
        if self._begun:
            await self._ended.wait()

    def forward(self, number: int) -> None:
        """Send a signal to QEMU. Before the start, the signal prevents it. Any thread may call this."""
        with self._lock:
            if self._pid:
                os.kill(self._pid, number)
            elif not self._begun:
                self._early = self._early or number

    def _spawn(self) -> int:
        os.set_inheritable(self._theirs.fileno(), True)
        closing = [(os.POSIX_SPAWN_CLOSE, number) for number in _inheritable() if number != self._theirs.fileno()]
        with soft_limit(self._files):
            return os.posix_spawnp(
                self._command[0],
                self._command,
                _environment(),
                file_actions=closing,
                setsigmask=(),
                setsigdef=_IGNORED_BY_PYTHON,
            )

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for QEMU's end; runs in a thread."""
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        with suppress(RuntimeError):  # the loop has ended before
            loop.call_soon_threadsafe(self._end, code if code >= 0 else EXIT_BY_SIGNAL - code)

    def _end(self, status: int) -> None:
        self.status = status
        log.info("qemu=ended status=%d", status)
        self._ended.set()


def forwarding_handlers(child: Child) -> dict[int, Callable[[], None]]:
    """Return a handler for each signal that is forwarded to QEMU."""

    def send(number: int) -> Callable[[], None]:
        return lambda: child.forward(number)

    return {number: send(number) for number in FORWARDED}


def _inheritable() -> Iterator[int]:
    """Yield the inheritable descriptors, without the standard ones."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        number = int(entry.name)
        with suppress(OSError):  # the descriptor of /proc/self/fd itself
            if number > 2 and os.get_inheritable(number):
                yield number


def _environment() -> dict[str, str]:
    """Return QEMU's environment: the guard's, without the variables QMPGUARD_*."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QMPGUARD_")}
