"""Lines on their way to a file: a bounded queue, and the thread that writes. Nobody waits for a disk or a reader.

What is lost is counted, wherever it is lost: when the queue is full, when a write fails, at the end. The count goes
with the next line, so that the file itself says how many lines are missing at that place.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from qmpguard.errors import QmpguardError

#: what is said when lines come faster than they can be written
TOO_SLOW = "it takes lines too slowly"


class Taken(NamedTuple):
    """A line to be written or None, how many are missing before it, and whether the file is to be reopened first."""

    line: bytes | None
    missing: int = 0
    reopen: bool = False


class LineQueue:
    """Lines that wait to be written: at most so many, and so many bytes. All methods may be called by any thread.

    The lock is reentrant: the garbage collector may log while a line is being put.
    """

    def __init__(self, max_lines: int, max_bytes: int) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._waiting: deque[Taken] = deque()
        self._bytes = 0
        self._missing = 0  # lines lost since the last that is waiting
        self._reopen = False  # asked for since the last that is waiting
        self._lost = 0
        self._under_way = 0  # lines taken whose writing is not finished
        self._until: float | None = None  # time.monotonic() when what waits is given up; None: not ending

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        with self._changed:
            return self._lost

    def put(self, line: bytes) -> bool:
        """Add a line; False where there is no room, and the line counts as lost."""
        with self._changed:
            if self._is_full(line):
                self._miss(1)
                return False
            self._waiting.append(Taken(line, self._missing, self._reopen))
            self._missing, self._reopen = 0, False
            self._bytes += len(line)
            self._changed.notify()
            return True

    def reopen(self) -> None:
        """Have the file opened again behind what waits."""
        with self._changed:
            self._reopen = True
            self._changed.notify()

    def end(self, seconds: float) -> None:
        """Take no more lines, and give up what is not taken within so many seconds. Only the first call counts."""
        with self._changed:
            self._until = time.monotonic() + seconds if self._until is None else self._until
            self._changed.notify()

    def take(self) -> Taken | None:
        """Return what is to be done next, as soon as there is something; None when all is done."""
        with self._changed:
            self._under_way = 0
            while not (self._waiting or self._missing or self._reopen or self._until is not None):
                self._changed.wait()
            if self._until is not None and time.monotonic() >= self._until:
                self._drop()
            if self._waiting:
                return self._first()
            rest = Taken(None, self._missing, self._reopen)
            self._missing, self._reopen = 0, False
            return rest if rest.missing or rest.reopen else None

    def lose(self) -> None:
        """Count a line that was taken and could not be written; saying so in the file is left to who took it."""
        with self._changed:
            self._lost += 1
            self._under_way = 0

    def count(self) -> None:
        """Count a line that was lost before it could be put."""
        with self._changed:
            self._miss(1)
            self._changed.notify()

    def abandon(self) -> int:
        """Give up what waits or is being written, since the writer hangs. Return how many lines these are."""
        with self._changed:
            under_way, self._under_way = self._under_way, 0
            self._lost += under_way
            return under_way + self._drop()

    def _is_full(self, line: bytes) -> bool:
        full = len(self._waiting) >= self._max_lines or self._bytes + len(line) > self._max_bytes
        return full or self._until is not None

    def _first(self) -> Taken:
        first = self._waiting.popleft()
        self._bytes -= len(first.line or b"")
        self._under_way = 1
        return first

    def _drop(self) -> int:
        dropped = len(self._waiting)
        self._miss(dropped + sum(taken.missing for taken in self._waiting), counted=dropped)
        self._reopen = self._reopen or any(taken.reopen for taken in self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return dropped

    def _miss(self, lines: int, counted: int | None = None) -> None:
        """Note lines as missing at the end of the queue; ``counted``: as many of them are not yet counted as lost."""
        self._missing += lines
        self._lost += lines if counted is None else counted


class Output(Protocol):
    """Where a writer's bytes go. All but `failed` is called by the writer's thread only, and may take its time."""

    def open(self) -> None:
        """Make it ready; raises `QmpguardError` or `OSError` where it cannot be used."""
        ...

    def reopen(self) -> bool:
        """Go on in a new file; False where the old one goes on."""
        ...

    def write(self, data: bytes) -> int:
        """Write, and return how many bytes were taken. Raises `OSError`."""
        ...

    def close(self) -> None:
        """Close it."""
        ...

    def confession(self, lines: int) -> bytes:
        """Return the line that says how many are missing."""
        ...

    def failed(self, reason: str) -> None:
        """Called when a line is lost and the one before was not. Any thread."""
        ...

    def recovered(self, lines: int) -> None:
        """Called when the output has said how many lines it lacks."""
        ...


class LineWriter:
    """A thread that writes the lines of a queue to an output. ``opened`` has a result when the output can be used."""

    def __init__(self, name: str, output: Output, queue: LineQueue) -> None:
        self.opened: Future[None] = Future()
        self.opened.set_running_or_notify_cancel()  # who stops waiting for it does not cancel it
        self._queue = queue
        self._output = output
        self._untold = 0  # lost lines of which the output itself does not say yet
        self._broken = False  # the last line in the output is not whole
        self._failing = threading.Event()  # lines are being lost, and that was told
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._queue.lost

    def put(self, line: bytes) -> None:
        """Write a line, soon. Never waits and never raises."""
        if not self._queue.put(line):
            self._fail(TOO_SLOW)

    def end(self, seconds: float) -> None:
        """Write for so many seconds more what waits, then say how much is missing, and close. Does not wait."""
        self._queue.end(seconds)

    @property
    def has_ended(self) -> bool:
        """Say whether the output is closed, or could not be used."""
        return not self._thread.is_alive()

    def join(self, seconds: float) -> int:
        """Wait at most so long for the end, or not at all for an output that is not open yet.

        Return how many lines are given up because the output hangs.
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
        while (taken := self._queue.take()) is not None:
            self._do(taken)
        self._confess()
        self._output.close()

    def _do(self, taken: Taken) -> None:
        self._untold += taken.missing
        if taken.reopen and self._output.reopen():
            self._broken = False
        if not self._confess() or (taken.line is not None and not self._write(taken.line + b"\n")):
            self._lose(taken)

    def _lose(self, taken: Taken) -> None:
        if taken.line is not None:
            self._queue.lose()
            self._untold += 1

    def _confess(self) -> bool:
        if not self._untold:
            return True
        if not self._write(self._output.confession(self._untold) + b"\n"):
            return False
        told, self._untold = self._untold, 0
        self._failing.clear()
        self._output.recovered(told)
        return True

    def _write(self, data: bytes) -> bool:
        """Write whole lines and say whether that was possible. A line that was begun before is ended first."""
        try:
            if self._broken:
                self._broken = self._output.write(b"\n") == 0
            written = 0 if self._broken else self._output.write(data)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return False
        self._broken = self._broken or 0 < written < len(data)
        is_written = written >= len(data) - 1  # if but its end is missing, that comes with the next line
        if not is_written:
            self._fail("the disk is full")
        return is_written

    def _fail(self, reason: str) -> None:
        if not self._failing.is_set():
            self._failing.set()
            self._output.failed(reason)


def write_all(file: int, data: bytes) -> int:
    """Write to a descriptor, in as many steps as it takes. Return less than all where a later step fails."""
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
