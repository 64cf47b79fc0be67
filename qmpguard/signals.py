"""The signals of a guard's process. They are blocked at its start, and received by a thread (sigwait(3)).

So no signal is lost, and none kills the process, at any time. A signal that arrives before its handler is set is
pending. The process can also be ended while its event loop hangs. Before `Signals.set_handlers`, SIGTERM and SIGINT
exit at once, since there is nothing to clean up yet.

Child processes inherit blocked signals: code that starts a program must unblock them for it.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping
    from threading import Thread

#: the signals that a guard handles; and those that it forwards to QEMU as its child
HANDLED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1})
TO_CHILD = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
#: the signals that stop the guard
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
#: Seconds from the signal to stop until the process is killed. Pending replies have 5, the last lines of the audit 5,
#: the service manager 1; systemd/qmpguard@.service has TimeoutStopSec=15.
STOP_TIMEOUT = 12.0
#: seconds for the interpreter to exit after the guard has stopped: a thread may hang in a blocking file
EXIT_TIMEOUT = 3.0
#: seconds for the last line of the log before the process is killed: the log itself may hang
FLUSH_TIMEOUT = 2.0
#: the exit code of a process that had to be killed; and the offset of an exit by a signal, as in shells
EXIT_HUNG, EXIT_BY_SIGNAL = 70, 128


def block_signals(numbers: frozenset[signal.Signals] = HANDLED) -> None:
    """Block signals until `Signals.start`. Call this first in a process: signals that arrive meanwhile are pending."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)  # a shell sets SIG_IGN for SIGINT in background processes


class Signals:
    """Receives signals in a thread. Before the handlers are set, the signals ``exit_early`` exit the process.

    ``exit_code`` returns the exit code for one of these.
    """

    def __init__(
        self,
        numbers: frozenset[signal.Signals] = HANDLED,
        exit_early: frozenset[signal.Signals] = STOP_SIGNALS,
        exit_code: Callable[[int], int] = lambda _: 0,
    ) -> None:
        from threading import Lock

        self._numbers = numbers
        self._exit_early = exit_early
        self._exit_code = exit_code
        self._lock = Lock()
        self._pending: list[int] = []
        self._handlers: Mapping[int, Callable[[], None]] | None = None

    def start(self) -> None:
        """Start the thread that receives the signals."""
        block_signals(self._numbers)
        _spawn("signals", self._run)

    def set_handlers(self, handlers: Mapping[int, Callable[[], None]]) -> None:
        """Set a handler for each signal, and call those of pending signals. Any thread may call a handler.

        A handler must neither wait nor raise.
        """
        with self._lock:
            self._handlers = handlers
            pending, self._pending = self._pending, []
        for number in pending:
            self._call(number)

    def _run(self) -> None:
        while True:
            self._on_signal(signal.sigwait(self._numbers))

    def _on_signal(self, number: int) -> None:
        with self._lock:
            if self._handlers is None:
                if number in self._exit_early:
                    os._exit(self._exit_code(number))
                self._pending.append(number)
                return
        self._call(number)

    def _call(self, number: int) -> None:
        assert self._handlers is not None
        try:
            if number in self._handlers:
                self._handlers[number]()
        except Exception:  # noqa: BLE001 -- the thread must go on
            _log().exception("the handler of signal %d failed", number)


class Shutdown:
    """Ends the process: after the first signal within `STOP_TIMEOUT`, after a second one at once.

    ``flush`` writes the remaining output. It may block for `FLUSH_TIMEOUT`.
    """

    def __init__(self, stop: Callable[[], None], flush: Callable[[], None] = lambda: None) -> None:
        self._stop = stop
        self._flush = flush
        self._requested = False

    def request(self) -> None:
        """Called at a signal to stop."""
        if self._requested:
            self._exit("ending at once: the second signal to end has come", EXIT_BY_SIGNAL + signal.SIGTERM)
        self._requested = True
        self.exit_after(STOP_TIMEOUT, EXIT_HUNG)
        self._stop()

    def exit_after(self, seconds: float, code: int) -> None:
        """Exit with ``code`` after ``seconds``, if the process has not ended before."""
        from threading import Event

        def wait() -> None:
            Event().wait(seconds)
            self._exit(f"ending after {seconds:g} s: something hangs", code)

        _spawn("end", wait)

    def _exit(self, why: str, code: int) -> None:
        """Exit now, and log the reason if possible."""

        def say() -> None:
            _log().error(why)
            self._flush()

        try:
            _spawn("last words", say).join(FLUSH_TIMEOUT)
        finally:
            os._exit(code)


def _spawn(name: str, work: Callable[[], None]) -> Thread:
    from threading import Thread

    thread = Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


def _log() -> logging.Logger:
    """Return the logger. `logging` is imported here, since this module is imported first in the process."""
    from logging import getLogger

    return getLogger(__name__)
