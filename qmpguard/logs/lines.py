"""A bounded queue of lines, and the thread that writes them to an output. The event loop never waits for a disk.

Every lost line is counted: when the queue is full, when a write fails, and at the end. The count is queued with the
next line, so that the output says at this place how many lines are missing.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from qmpguard.errors import QmpguardError

#: the reason of a loss when the queue is full
TOO_SLOW = "it takes lines too slowly"


class QueuedLine(NamedTuple):
    """A line or None, the number of lines missing before it, and whether the file must be reopened first."""

    line: bytes | None
    missing: int = 0
    reopen: bool = False


class LineQueue:
    """A queue with a limit of lines and a limit of bytes. Every method is thread-safe.

    The lock is reentrant: the garbage collector may log while a line is being queued.
    """

    def __init__(self, max_lines: int, max_bytes: int) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._waiting: deque[QueuedLine] = deque()
        self._bytes = 0
        self._missing = 0  # lines lost after the last queued one
        self._reopen = False  # requested after the last queued line
        self._lost = 0
        self._under_way = 0  # lines that are being written
        self._until: float | None = None  # time.monotonic() when the queued lines are dropped; None: not ending

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        with self._changed:
            return self._lost

    def put(self, line: bytes) -> bool:
        """Queue a line; False where the queue is full, and the line counts as lost."""
        with self._changed:
            if self._is_full(line):
                self._miss(1)
                return False
            self._waiting.append(QueuedLine(line, self._missing, self._reopen))
            self._missing, self._reopen = 0, False
            self._bytes += len(line)
            self._changed.notify()
            return True

    def reopen(self) -> None:
        """Request a reopening of the file after the queued lines."""
        with self._changed:
            self._reopen = True
            self._changed.notify()

    def end(self, seconds: float) -> None:
        """Accept no more lines, and drop those that are not taken within ``seconds``. Only the first call counts."""
        with self._changed:
            self._until = time.monotonic() + seconds if self._until is None else self._until
            self._changed.notify()

    def take(self) -> QueuedLine | None:
        """Block until there is a line, a count or a reopening, and return it. None: the queue has ended."""
        with self._changed:
            self._under_way = 0
            while not (self._waiting or self._missing or self._reopen or self._until is not None):
                self._changed.wait()
            if self._until is not None and time.monotonic() >= self._until:
                self._drop()
            if self._waiting:
                return self._first()
            rest = QueuedLine(None, self._missing, self._reopen)
            self._missing, self._reopen = 0, False
            return rest if rest.missing or rest.reopen else None

    def lose(self) -> None:
        """Count a taken line that could not be written; the writer adds it to its own notice."""
        with self._changed:
            self._lost += 1
            self._under_way = 0

    def count(self) -> None:
        """Count a line that was lost before it was queued."""
        with self._changed:
            self._miss(1)
            self._changed.notify()

    def abandon(self) -> int:
        """Drop the queued line and the one being written, since the writer hangs. Return their number."""
        with self._changed:
            under_way, self._under_way = self._under_way, 0
            self._lost += under_way
            return under_way + self._drop()

    def _is_full(self, line: bytes) -> bool:
        full = len(self._waiting) >= self._max_lines or self._bytes + len(line) > self._max_bytes
        return full or self._until is not None

    def _first(self) -> QueuedLine:
        first = self._waiting.popleft()
        self._bytes -= len(first.line or b"")
        self._under_way = 1
        return first

    def _drop(self) -> int:
        dropped = len(self._waiting)
        self._miss(dropped + sum(queued.missing for queued in self._waiting), counted=dropped)
        self._reopen = self._reopen or any(queued.reopen for queued in self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return dropped

    def _miss(self, lines: int, counted: int | None = None) -> None:
        """Add missing lines at the end of the queue; ``counted`` of them are added to the lost ones, None: all."""
        self._missing += lines
        self._lost += lines if counted is None else counted


class Output(Protocol):
    """The destination of a writer. Only the writer's thread calls its methods, except `failed`. They may block."""

    def open(self) -> None:
        """Open the output; raises `QmpguardError` or `OSError` where it cannot be used."""
        ...

    def reopen(self) -> bool:
        """Open a new file in place of the old one; False where the old one stays in use."""
        ...

    def write(self, data: bytes) -> int:
        """Write, and return the number of bytes written. Raises `OSError`."""
        ...

    def close(self) -> None:
        """Close the output."""
        ...

    def loss_notice(self, lines: int) -> bytes:
        """Return the line that says how many lines are missing."""
        ...

    def failed(self, reason: str) -> None:
        """Called by any thread when a line is lost and the one before was not."""
        ...

    def recovered(self, lines: int) -> None:
        """Called when the notice of ``lines`` lost lines was written."""
        ...


class LineWriter:
    """A thread that writes the lines of a queue to an output. ``opened`` is done when the output is open."""

    def __init__(self, name: str, output: Output, queue: LineQueue) -> None:
        self.opened: Future[None] = Future()
        self.opened.set_running_or_notify_cancel()  # so that a caller that stops waiting does not cancel it
        self._queue = queue
        self._output = output
        self._unreported = 0  # lost lines without a notice in the output yet
        self._broken = False  # the last line in the output is incomplete
        self._failing = threading.Event()  # lines are being lost, and `failed` was called
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._queue.lost

    def put(self, line: bytes) -> None:
        """Queue a line. Never waits and never raises."""
        if not self._queue.put(line):
            self._fail(TOO_SLOW)

    def end(self, seconds: float) -> None:
        """Write queued lines for ``seconds`` more, then the notice of the lost ones, and close. Does not wait."""
        self._queue.end(seconds)

    @property
    def has_ended(self) -> bool:
        """Say whether the output is closed, or could not be opened."""
        return not self._thread.is_alive()

    def join(self, seconds: float) -> int:
        """Wait at most ``seconds`` for the end, or not at all for an output that is not open yet.

        Return the number of lines that are dropped because the output hangs.
        """
        self._thread.join(max(0.0, seconds) if self.opened.done() else 0)
        return self._queue.abandon() if self._thread.is_alive() else 0

    def _run(self) -> None:
        try:
            self._output.open()
        except (QmpguardError, OSError) as error:
            self.opened.set_exception(error)
            return
        self.opened.set_result(None)
        while (queued := self._queue.take()) is not None:
            self._do(queued)
        self._write_loss_notice()
        self._output.close()

    def _do(self, queued: QueuedLine) -> None:
        self._unreported += queued.missing
        if queued.reopen and self._output.reopen():
            self._broken = False
        if not self._write_loss_notice() or (queued.line is not None and not self._write(queued.line + b"\n")):
            self._lose(queued)

    def _lose(self, queued: QueuedLine) -> None:
        if queued.line is not None:
            self._queue.lose()
            self._unreported += 1

    def _write_loss_notice(self) -> bool:
        if not self._unreported:
            return True
        if not self._write(self._output.loss_notice(self._unreported) + b"\n"):
            return False
        reported, self._unreported = self._unreported, 0
        self._failing.clear()
        self._output.recovered(reported)
        return True

    def _write(self, data: bytes) -> bool:
        """Write complete lines; False where that failed. An incomplete line is ended first."""
        try:
            if self._broken:
                self._broken = self._output.write(b"\n") == 0
            written = 0 if self._broken else self._output.write(data)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return False
        self._broken = self._broken or 0 < written < len(data)
        is_written = written >= len(data) - 1  # if only the newline is missing, it comes with the next line
        if not is_written:
            self._fail("the disk is full")
        return is_written

    def _fail(self, reason: str) -> None:
        if not self._failing.is_set():
            self._failing.set()
            self._output.failed(reason)


def write_all(file: int, data: bytes) -> int:
    """Write to a descriptor until everything is written. Return the bytes written, where a later write(2) fails."""
    done = os.write(file, data)
    while 0 < done < len(data):
        try:
            step = os.write(file, data[done:])
        except OSError:
            return done
        if step == 0:
            return done
        done += step
    return done
