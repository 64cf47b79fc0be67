"""The log on standard error, by a thread: a full pipe, a stuck journal or a reader that is gone holds up no VM.

Everything that the process says goes this way once `log_to_stderr` was called: the log, the line when it is ready, and
what Python itself prints. What could not be written is counted, and the log says so as soon as it can be written again.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import sys
import time
from contextlib import suppress
from io import UnsupportedOperation
from typing import TYPE_CHECKING, TextIO, cast

from qmpguard.logs.descriptors import hold_standard_descriptors
from qmpguard.logs.formats import formatter
from qmpguard.logs.lines import LineQueue, LineWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.config import LogConfig

#: lines that wait to be written at most; with the limit of a line some tens of megabytes, so bytes are limited too
MAX_WAITING = 16384
#: bytes that wait to be written at most
MAX_WAITING_BYTES = 4 << 20
#: seconds that the end waits for the last lines to be read
LAST_WORDS = 2.0
#: seconds between two looks at a descriptor that takes nothing now, where it does not block by itself
AGAIN = 1.0
#: characters of a line that something prints without ending it
MAX_UNENDED = 65536
#: what the command line's own errors begin with: they stay as they are
OWN = "qmpguard: "
#: the descriptor of standard error
STDERR = 2


class StderrLog(logging.Handler):
    """Writes records to standard error, by a thread. Never waits and never raises.

    ``is_recorded`` says whether the decision that is just being told of is on record elsewhere already.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_recorded: Callable[[], bool] = lambda: False
        self._until: float | None = None  # time.monotonic() when the end waits no longer
        self._queue = LineQueue(MAX_WAITING, MAX_WAITING_BYTES)
        self._writer = LineWriter("log", _Stderr(self._confession), self._queue)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._queue.lost

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, soon, but for a decision that is on record elsewhere."""
        if hasattr(record, "on_record") and self.is_recorded():
            return
        try:
            line = self.format(record).encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 -- whatever it is: nobody could be told but by this log
            self._queue.count()
            return
        self._writer.put(line)

    def end(self) -> None:
        """Write what waits, as far as it is read in time; a second call waits for the rest of that time only."""
        if self._until is None:
            self._until = time.monotonic() + LAST_WORDS
            self._writer.end(LAST_WORDS)
        self._writer.join(self._until - time.monotonic())

    def close(self) -> None:
        """Write the last lines and end: what `logging.shutdown` calls, from whichever thread."""
        self.end()
        super().close()

    def _confession(self, lines: int) -> bytes:
        return self.format(_record("the log has lost lines=%d here", args=(lines,), name=__name__)).encode()


class _Stderr:
    """Standard error itself."""

    def __init__(self, confession: Callable[[int], bytes]) -> None:
        self.confession = confession

    def open(self) -> None:
        """It is open."""

    def reopen(self) -> bool:
        return False

    def write(self, data: bytes) -> int:
        done = 0
        while done < len(data):
            try:
                done += os.write(STDERR, data[done:])
            except BlockingIOError:  # somebody who shares it made it so
                select.select([], [STDERR], [], AGAIN)
            except OSError:
                if done:
                    return done
                raise
        return done

    def close(self) -> None:
        """It stays open."""

    def failed(self, reason: str) -> None:
        """There is nowhere else to tell it."""

    def recovered(self, lines: int) -> None:
        """The line itself tells it."""


class _Printed:
    """In the place of `sys.stderr`: each line that is printed becomes a line of the log."""

    encoding = "utf-8"
    errors = "backslashreplace"
    closed = False

    def __init__(self, log: StderrLog) -> None:
        self._log = log
        self._begun = ""

    def write(self, text: str) -> int:
        """Log the lines of a text that are whole."""
        *lines, self._begun = (self._begun + text).split("\n")
        if len(self._begun) > MAX_UNENDED:
            lines, self._begun = [*lines, self._begun], ""
        for line in lines:
            if line:
                self._log.handle(_record(line, name="stderr", bare=line.startswith(OWN)))
        return len(text)

    def flush(self) -> None:
        """Nothing waits but what is not a whole line."""

    def fileno(self) -> int:
        raise UnsupportedOperation("what is printed goes into the log")

    def isatty(self) -> bool:
        return False


def _record(message: str, **more: object) -> logging.LogRecord:
    about = {"msg": message, "levelno": logging.ERROR, "levelname": logging.getLevelName(logging.ERROR)}
    return logging.makeLogRecord(about | more)


def stderr_log() -> StderrLog | None:
    """Return the log of this process; None where nobody has called `log_to_stderr`."""
    return next((one for one in logging.getLogger().handlers if isinstance(one, StderrLog)), None)


def log_to_stderr(config: LogConfig) -> None:
    """Log as a config says, from now on, and everything that is printed to standard error with it."""
    handler = stderr_log() or _begin()
    handler.setFormatter(formatter(config.format))
    logging.getLogger().setLevel(logging.getLevelNamesMapping()[config.level.value.upper()])


def _begin() -> StderrLog:
    hold_standard_descriptors()
    with suppress(OSError, AttributeError, ValueError):
        sys.stderr.flush()
    handler = StderrLog()
    logging.basicConfig(handlers=[handler], force=True)
    logging.raiseExceptions = False  # it would print, and wait for who reads that
    sys.stderr = cast("TextIO", _Printed(handler))
    atexit.register(handler.end)
    return handler
