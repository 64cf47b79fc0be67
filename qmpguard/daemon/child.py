"""QEMU as a child of the guard: its only monitor is a socket pair that nobody else holds an end of."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from itertools import pairwise
from typing import TYPE_CHECKING

from qmpguard.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)

#: what is sent to us and meant for QEMU
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
#: seconds in which the link ends, and the guard with it, when QEMU has ended; a child of QEMU's may hold it open
LINGER = 1.0
#: added to the number of the signal that ended a process, as shells do
BY_SIGNAL = 128
#: options of QEMU that make a monitor; `-monitor none` and the like make none
MONITORS = frozenset({"qmp", "qmp-pretty", "mon", "monitor"})
#: options whose value makes a monitor where it begins so
SHARED = {"serial": "mon:", "parallel": "mon:", "debugcon": "mon:", "object": "monitor-"}
#: options with which one may be hidden in a file, or had by a debugger
DOUBTFUL = frozenset({"readconfig", "gdb", "s"})


class Child:
    """A QEMU to be started with a command line. ``status`` is its exit status once it has ended."""

    def __init__(self, command: Sequence[str]) -> None:
        self.status: int | None = None
        self._ours, self._theirs = socket.socketpair()
        number = self._theirs.fileno()
        monitor = ("-chardev", f"socket,id=qmpguard,fd={number}", "-mon", "chardev=qmpguard,mode=control")
        self._command = (*command, *monitor)
        self._process: asyncio.subprocess.Process | None = None

    def detach(self) -> int:
        """Return the descriptor of the guard's end, which is the caller's from now on."""
        return self._ours.detach()

    def close(self) -> None:
        """Close QEMU's end, if it was not handed over."""
        self._theirs.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Start it, and set ``stop`` when it has ended; whatever happens, it is waited for.

        Raises `UsageError` where it cannot be started.
        """
        await self._start()
        assert self._process is not None
        try:
            await self._process.wait()
        finally:
            code = await self._process.wait()
            self.status = code if code >= 0 else BY_SIGNAL - code
            log.info("qemu=ended status=%d", self.status)
        await asyncio.sleep(LINGER)
        stop.set()

    def forward(self, number: int) -> None:
        """Send a signal to QEMU, if it runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _start(self) -> None:
        with self._theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, pass_fds=[self._theirs.fileno()], env=_environment()
                )
            except OSError as error:
                raise UsageError(f"cannot run {self._command[0]}: {error.strerror}") from error


def monitors(command: Sequence[str]) -> Iterator[str]:
    """Yield what on a command line makes another monitor, which would be a way around the guard."""
    for option, value in _options(command):
        makes = option in MONITORS and value != "none"
        if makes or (option in SHARED and value.removeprefix("qom-type=").startswith(SHARED[option])):
            yield f"-{option} {value}"


def doubtful(command: Sequence[str]) -> Iterator[str]:
    """Yield what on a command line may make one, which cannot be told from here."""
    for option, value in _options(command):
        if option in DOUBTFUL:
            yield f"-{option} {value}" if option != "s" else "-s"


def _options(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each word that looks like an option, and the word after it; QEMU takes one dash or two."""
    words = [*command[1:], ""]
    for word, following in pairwise(words):
        if word.startswith("-"):
            yield word.removeprefix("-").removeprefix("-"), following


def _environment() -> dict[str, str]:
    """Return QEMU's environment: ours, without what is only for us."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QMPGUARD_")}
