"""The log on standard error, written by a thread: a full pipe, a stuck journal or a closed reader blocks no VM.

After `log_to_stderr` everything on standard error is written this way: the log, the ready line, and Python's own
output. Lost lines are counted, and the log gets a line with the count as soon as it can be written again.
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

#: queued lines; with the limit of a line these could be tens of megabytes, so bytes are limited too
MAX_WAITING = 16384
#: queued bytes
MAX_WAITING_BYTES = 4 << 20
#: seconds that the end waits for the last lines to be written
FLUSH_TIMEOUT = 2.0
#: seconds between two attempts to write to a non-blocking descriptor that is full
RETRY_DELAY = 1.0
#: characters of a printed line without its newline
MAX_PARTIAL_LINE = 65536
#: the prefix of the command line's errors, which are logged without time and level
ERROR_PREFIX = "qmpguard: "
#: the descriptor of standard error
STDERR = 2


class StderrLog(logging.Handler):
    """Writes records to standard error, by a thread. Never waits and never raises.

    ``is_recorded`` says whether the decision that is being logged is in the journal already.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_recorded: Callable[[], bool] = lambda: False
        self._until: float | None = None  # time.monotonic() when the end stops waiting
        self._queue = LineQueue(MAX_WAITING, MAX_WAITING_BYTES)
        self._writer = LineWriter("log", _Stderr(self._loss_notice), self._queue)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._queue.lost

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, unless it is a decision that is in the journal already."""
        if hasattr(record, "on_record") and self.is_recorded():
            return
        try:
            line = self.format(record).encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 -- this is the log: there is no other place to report it
            self._queue.count()
            return
        self._writer.put(line)

    def end(self) -> None:
        """Write the queued lines within `FLUSH_TIMEOUT`. A second call waits for the rest of that time."""
        if self._until is None:
            self._until = time.monotonic() + FLUSH_TIMEOUT
            self._writer.end(FLUSH_TIMEOUT)
        self._writer.join(self._until - time.monotonic())

    def close(self) -> None:
        """Called by `logging.shutdown`, from any thread: write the last lines and end."""
        self.end()
        super().close()

    def _loss_notice(self, lines: int) -> bytes:
        return self.format(_record("the log has lost lines=%d here", args=(lines,), name=__name__)).encode()


class _Stderr:
    """The output of a `StderrLog`."""

    def __init__(self, loss_notice: Callable[[int], bytes]) -> None:
        self.loss_notice = loss_notice

    def open(self) -> None:
        """Do nothing: standard error is open."""

    def reopen(self) -> bool:
        return False

    def write(self, data: bytes) -> int:
        done = 0
        while done < len(data):
            try:
                done += os.write(STDERR, data[done:])
            except BlockingIOError:  # another process has set O_NONBLOCK on the shared file
                select.select([], [STDERR], [], RETRY_DELAY)
            except OSError:
                if done:
                    return done
                raise
        return done

    def close(self) -> None:
        """Do nothing: standard error stays open."""

    def failed(self, reason: str) -> None:
        """Do nothing: there is no other log."""

    def recovered(self, lines: int) -> None:
        """Do nothing: the notice itself is in the log."""


class _StderrText:
    """Replaces `sys.stderr`: each printed line becomes a line of the log."""

    encoding = "utf-8"
    errors = "backslashreplace"
    closed = False

    def __init__(self, log: StderrLog) -> None:
        self._log = log
        self._partial = ""

    def write(self, text: str) -> int:
        """Log the complete lines of a text."""
        *lines, self._partial = (self._partial + text).split("\n")
        if len(self._partial) > MAX_PARTIAL_LINE:
            lines, self._partial = [*lines, self._partial], ""
        for line in lines:
            if line:
                self._log.handle(_record(line, name="stderr", bare=line.startswith(ERROR_PREFIX)))
        return len(text)

    def flush(self) -> None:
        """Do nothing: only an incomplete line is buffered."""

    def fileno(self) -> int:
        raise UnsupportedOperation("printed text goes into the log")

    def isatty(self) -> bool:
        return False


def _record(message: str, **more: object) -> logging.LogRecord:
    about = {"msg": message, "levelno": logging.ERROR, "levelname": logging.getLevelName(logging.ERROR)}
    return logging.makeLogRecord(about | more)


def stderr_log() -> StderrLog | None:
    """Return the log of this process; None before `log_to_stderr`."""
    return next((one for one in logging.getLogger().handlers if isinstance(one, StderrLog)), None)


def log_to_stderr(config: LogConfig) -> None:
    """Log by a config, and redirect `sys.stderr` into the log."""
    handler = stderr_log() or _begin()
    handler.setFormatter(formatter(config.format))
    logging.getLogger().setLevel(logging.getLevelNamesMapping()[config.level.value.upper()])


def _begin() -> StderrLog:
    hold_standard_descriptors()
    with suppress(OSError, AttributeError, ValueError):
        sys.stderr.flush()
    handler = StderrLog()
    logging.basicConfig(handlers=[handler], force=True)
    logging.raiseExceptions = False  # otherwise logging prints errors itself, and blocks
    sys.stderr = cast("TextIO", _StderrText(handler))
    atexit.register(handler.end)
    return handler
