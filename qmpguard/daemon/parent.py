"""QEMU as the guard's parent: a process forks the guard, waits until it is ready, and becomes QEMU by execve(2).

So QEMU has the PID, the descriptors, the limits and the exit status that the manager which started it reckons with, as
libvirt does. The guard is a session of its own, takes none of QEMU's descriptors, and ends when QEMU has ended.

* QEMU never runs without a guard that is ready: where the guard fails, its exit status is that of the command.
* The listening sockets are the guard's alone. If QEMU had them too, clients of a dead guard would wait for ever.
* QEMU's standard error is QEMU's: the guard's log may go to a file from the moment on in which QEMU may run. A manager
  that reads the log until its end, as virtlogd does, would else wait for the guard, and refuse to open it for the next.
* The process is known to the guard by a pidfd, which stays the same over execve(2).
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from contextlib import closing
from typing import TYPE_CHECKING

from qmpguard.daemon.monitor_pair import IGNORED_BY_PYTHON, LINGER, MonitorPair, environment, inheritable
from qmpguard.errors import ConfigError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

#: seconds until the guard must be ready; reading its configuration may take 30 of them
READY_TIMEOUT = 60.0
#: bytes of its report: the descriptors of two sockets
MAX_REPORT = 256
STDOUT, STDERR = 1, 2


class Parent:
    """The process that becomes QEMU, as the guard sees it after the fork. ``status`` is always None: it is not ours.

    ``start`` lets it become QEMU. Nothing is sent to it, and it is not waited for when the guard is told to end.
    """

    status: None = None

    def __init__(self, process: int, report: int) -> None:
        self._process = process
        self._report = report
        self._kept: Collection[int] = ()
        self._log: int | None = None

    def keep_only(self, sockets: Collection[int], log_file: str | None) -> None:
        """Close what was inherited for QEMU, but for the sockets that the guard listens at.

        ``log_file`` takes the place of standard error when the guard is ready. Raises `UsageError`.
        """
        self._kept = sockets
        self._log = None if log_file is None else _opened(log_file)
        for number in list(inheritable()):
            if number not in sockets:
                os.close(number)

    def start(self) -> None:
        """Report that the guard is ready, and which sockets are its own."""
        if self._log is not None:
            for number in (STDOUT, STDERR):
                os.dup2(self._log, number)
        os.write(self._report, " ".join(("ready", *map(str, self._kept))).encode())
        os.close(self._report)

    async def run(self, stop: asyncio.Event) -> None:
        """Set ``stop`` when QEMU has ended, and a little later, so that its last words arrive."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process)
        await asyncio.sleep(LINGER)
        stop.set()

    async def ended(self) -> None:
        """Return at once: QEMU may outlive the guard."""

    def signal_handlers(self) -> Mapping[int, Callable[[], None]]:
        """Return no handler: a signal for QEMU is sent to QEMU."""
        return {}


def become_qemu(command: Sequence[str], guard: Callable[[Parent, int], int]) -> int:
    """Fork the guard and become QEMU. Return an exit status only in the guard, or where the guard failed.

    ``guard`` is called with the parent and the guard's end of the monitor. Raises `UsageError` where QEMU cannot be
    run, and `UnavailableError` where the guard was not ready in time.
    """
    pair = MonitorPair()
    heard, report = os.pipe()
    process = os.pidfd_open(os.getpid())
    if (pid := os.fork()) == 0:
        os.setsid()
        os.close(heard)
        pair.theirs.close()
        return guard(Parent(process, report), pair.ours.detach())
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # from here on signals are QEMU's
    os.close(report)
    os.close(process)
    pair.ours.close()
    with closing(pair.theirs):
        sockets = _wait_until_ready(pid, heard)
        return _status(pid) if sockets is None else _run(command, pair, sockets)


def _opened(log_file: str) -> int:
    from qmpguard.logs.linefile import open_regular

    try:
        return open_regular(log_file)
    except (OSError, ConfigError) as error:
        raise UsageError(f"--log-file {log_file}: {getattr(error, 'strerror', None) or error}") from error


def _wait_until_ready(guard: int, heard: int) -> Sequence[int] | None:
    """Return the sockets of a guard that is ready, and None for one that has ended."""
    ready, _, _ = select.select([heard], [], [], READY_TIMEOUT)
    if not ready:
        os.kill(guard, signal.SIGKILL)
        raise UnavailableError(f"the guard was not ready within {READY_TIMEOUT:g} s, so QEMU was not started")
    words = os.read(heard, MAX_REPORT).split()
    os.close(heard)
    return [int(word) for word in words[1:]] if words else None


def _status(guard: int) -> int:
    """Return the exit status of a guard that has ended; it has told why. Raises `UnavailableError` where it has not."""
    _, status = os.waitpid(guard, 0)
    code = os.waitstatus_to_exitcode(status)
    if code <= 0:
        reason = f"was killed by {signal.Signals(-code).name}" if code else "was told to end"
        raise UnavailableError(f"the guard {reason} before it was ready, so QEMU was not started")
    return code


def _run(command: Sequence[str], pair: MonitorPair, sockets: Sequence[int]) -> int:
    for number in sockets:
        os.close(number)
    pair.give()
    for number in IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], (*command, *pair.options), environment())  # noqa: S606 -- a command line, not a shell's
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot run {command[0]}: {reason}") from error
