"""The signals of a guard's process. They are blocked from its first moment on, and taken by a thread.

So none is lost or kills the process, however early or late it comes; one that comes before it can be obeyed waits. And
the process can be ended whatever its event loop hangs in. Until `Signals.obey` a signal to end ends it at once, for
there is nothing to tidy up yet.

Blocked signals are inherited: who starts another program unblocks them for it.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from threading import Thread

#: all that mean anything to a guard; SIGQUIT to QEMU only, where it is a child
TAKEN = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
TO_CHILD = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
#: those that end the guard
ENDING = frozenset({signal.SIGTERM, signal.SIGINT})
#: Seconds from the signal to end until the process is ended whatever it does. Replies that are under way have 5, the
#: last lines of the audit 5, a service manager 1; systemd/qmpguard@.service has TimeoutStopSec=15.
STOP_LIMIT = 12.0
#: seconds that the interpreter may take to end when the guard has: a thread may hang in a file that blocks
EXIT_LIMIT = 3.0
#: seconds that the last line of the log may take when the process has to be ended: the log may be what hangs
LAST_WORDS = 2.0
#: exit codes: the guard had to be ended; added to a signal's number, as shells do
HUNG, BY_SIGNAL = 70, 128


def hold(numbers: frozenset[signal.Signals] = TAKEN) -> None:
    """Block signals, until `Signals.start`. The first thing that a process does: what comes meanwhile waits."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)  # a shell ignores SIGINT for what it runs in the background


class Signals:
    """Takes signals by a thread. ``early`` are those that end the process before there is anything to obey them.

    ``status`` returns the exit code for one of these.
    """

    def __init__(
        self,
        numbers: frozenset[signal.Signals] = TAKEN,
        early: frozenset[signal.Signals] = ENDING,
        status: Callable[[int], int] = lambda _: 0,
    ) -> None:
        from threading import Lock

        self._numbers = numbers
        self._early = early
        self._status = status
        self._lock = Lock()
        self._waiting: list[int] = []
        self._calls: Mapping[int, Callable[[], None]] | None = None

    def start(self) -> None:
        """Take signals from now on."""
        hold(self._numbers)
        _spawn("signals", self._run)

    def obey(self, calls: Mapping[int, Callable[[], None]]) -> None:
        """Have functions called for signals from now on, and for those that have come before. Any thread calls them.

        They must neither wait nor raise.
        """
        with self._lock:
            self._calls = calls
            waiting, self._waiting = self._waiting, []
        for number in waiting:
            self._call(number)

    def _run(self) -> None:
        while True:
            self._take(signal.sigwait(self._numbers))

    def _take(self, number: int) -> None:
        with self._lock:
            if self._calls is None:
                if number in self._early:
                    os._exit(self._status(number))
                self._waiting.append(number)
                return
        self._call(number)

    def _call(self, number: int) -> None:
        assert self._calls is not None
        try:
            if number in self._calls:
                self._calls[number]()
        except Exception:  # noqa: BLE001 -- the thread must go on
            _log().exception("signal %d could not be obeyed", number)


class Ending:
    """Ends the process in a limited time: asked by a signal, within `STOP_LIMIT`; asked again, at once.

    ``flush`` writes what can still be written; it may take its time, but not for ever.
    """

    def __init__(self, stop: Callable[[], None], flush: Callable[[], None] = lambda: None) -> None:
        self._stop = stop
        self._flush = flush
        self._asked = False

    def ask(self) -> None:
        """Called when a signal to end has come."""
        if self._asked:
            self._end("ending at once: the second signal to end has come", BY_SIGNAL + signal.SIGTERM)
        self._asked = True
        self.limit(STOP_LIMIT, HUNG)
        self._stop()

    def limit(self, seconds: float, code: int) -> None:
        """End the process with an exit code if it has not ended by itself within so many seconds."""
        from threading import Event

        def wait() -> None:
            Event().wait(seconds)
            self._end(f"ending after {seconds:g} s: something hangs", code)

        _spawn("end", wait)

    def _end(self, why: str, code: int) -> None:
        """End the process now, and say why if that can be said."""

        def say() -> None:
            _log().error(why)
            self._flush()

        try:
            _spawn("last words", say).join(LAST_WORDS)
        finally:
            os._exit(code)


def _spawn(name: str, work: Callable[[], None]) -> Thread:
    from threading import Thread

    thread = Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _log() -> logging.Logger:
    """Return the log; its module is loaded late, since this one is the first of the process."""
    from logging import getLogger

    return getLogger(__name__)
