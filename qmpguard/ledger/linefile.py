"""A file that lines are added to, by a thread of its own: a slow or a full disk holds nobody up.

What cannot be written is counted, told of in the log when it begins and when it is over, and noted in the file itself
as soon as there is room again. Nothing is lost without a word.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from typing import Protocol

from qmpguard.errors import ConfigError

log = logging.getLogger(__name__)

#: lines that wait to be written at most; some hundred bytes each, so some megabytes
MAX_WAITING = 16384
#: permissions of the file
PRIVATE = 0o600
#: seconds that the end waits for what is still to be written
LAST_WORDS = 5.0
#: stands among the lines where the file is to be reopened
REOPEN = b""


class Sink(Protocol):
    """Where lines go."""

    def put(self, line: bytes) -> None:
        """Take a line; never waits and never raises."""
        ...


class LineFile:
    """An append-only file. ``lost`` counts lines that could not be written."""

    def __init__(self, path: str) -> None:
        """Open it; raises `ConfigError` where that is not possible: who asks for an audit does not go without."""
        self.path = path
        self.lost = 0
        self._untold = 0  # of these, what the file itself does not say yet
        self._broken = False  # the last line in the file is not whole
        self._queue: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._overdue = False  # it should have been reopened, and the queue was full
        try:
            self._file = _open(path)
        except OSError as error:
            raise ConfigError(f"cannot open {path}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._write_all, name=f"lines of {path}", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Write a line, soon. Never waits and never raises."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._lose("the disk is too slow")

    def reopen(self) -> None:
        """Go on in a new file, behind what waits to be written: the old one was moved away."""
        try:
            self._queue.put_nowait(REOPEN)
        except queue.Full:
            self._overdue = True

    def close(self) -> None:
        """Write what waits, as far as it can be done in time, and close."""
        try:
            self._queue.put(None, timeout=LAST_WORDS)
        except queue.Full:
            log.error("%s: lines are lost at the end: %d", self.path, self._queue.qsize())
            return
        self._thread.join(LAST_WORDS)

    def _write_all(self) -> None:
        while (line := self._queue.get()) is not None:
            if line == REOPEN or self._overdue:
                self._overdue = False
                self._open_again()
            if line != REOPEN:
                self._write(line)
        os.close(self._file)

    def _open_again(self) -> None:
        try:
            file = _open(self.path)
        except OSError as error:
            log.error("%s cannot be opened again, going on in the old file: %s", self.path, error.strerror)
            return
        os.close(self._file)
        self._file = file
        self._broken = False
        log.info("%s opened again", self.path)

    def _write(self, line: bytes) -> None:
        data = line + b"\n"
        if self._untold:
            data = _confession(self._untold) + data
        if self._broken:
            data = b"\n" + data
        try:
            written = os.write(self._file, data)
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        self._broken = written < len(data)
        if self._broken:
            self._lose("the disk is full")
        elif self._untold:
            log.error("%s can be written again; lines lost: %d", self.path, self._untold)
            self._untold = 0

    def _lose(self, reason: str) -> None:
        self.lost += 1
        self._untold += 1
        if self._untold == 1:
            log.error("%s cannot be written, lines are lost: %s", self.path, reason)


def _open(path: str) -> int:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        os.fchmod(file, PRIVATE)
    except OSError:
        os.close(file)
        raise
    return file


def _confession(lines: int) -> bytes:
    return json.dumps({"time": time.time(), "kind": "lost", "lines": lines}).encode() + b"\n"
