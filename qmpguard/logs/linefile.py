"""A file that lines are added to, by a thread of its own: a slow, a full or a hung disk holds nobody up.

The thread opens the file too, since that can hang as well (NFS). Only regular files are written: a FIFO or a device
blocks when nobody reads it. What cannot be written is counted, told of in the log when it begins and when it is over,
and noted in the file itself as soon as there is room again. Nothing is lost without a word.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import stat
import time
from typing import Protocol

from qmpguard.errors import ConfigError, QmpguardError
from qmpguard.logs.lines import LineQueue, LineWriter, write_all

log = logging.getLogger(__name__)

#: lines that wait to be written at most; some hundred bytes each, so some megabytes
MAX_WAITING = 16384
#: bytes that wait to be written at most: a request of a client may have four megabytes, and must not fill the memory
MAX_WAITING_BYTES = 16 << 20
#: permissions of the file
PRIVATE = 0o600
#: seconds that opening a file may take: a local disk needs a millisecond, a server that restarts some seconds
OPENING = 10.0
#: seconds that the end waits for what is still to be written
LAST_WORDS = 5.0
#: seconds more in which the file can still say how many lines it lacks
CONFESSION = 0.5
#: what a file is that is not written to
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


class Sink(Protocol):
    """Where lines go."""

    def put(self, line: bytes) -> None:
        """Take a line; never waits and never raises."""
        ...

    def count(self) -> None:
        """Count a line that could not be made."""
        ...


class LineFile:
    """An append-only file, which its thread begins to open at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._queue = LineQueue(MAX_WAITING, MAX_WAITING_BYTES)
        self._writer = LineWriter(f"lines of {path}", _File(path), self._queue)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._queue.lost

    def wait_opened(self) -> None:
        """Wait until the file is open, before anything else runs. Raises `ConfigError` where it cannot be had."""
        try:
            self._writer.opened.result(OPENING)
        except (TimeoutError, OSError, QmpguardError) as error:
            raise self._unusable(error) from error

    async def opened(self) -> None:
        """Return when the file is open. Raises `ConfigError` where it cannot be had."""
        try:
            async with asyncio.timeout(OPENING):
                await asyncio.wrap_future(self._writer.opened)
        except (TimeoutError, OSError, QmpguardError) as error:
            raise self._unusable(error) from error

    def put(self, line: bytes) -> None:
        """Write a line, soon. Never waits and never raises."""
        self._writer.put(line)

    def count(self) -> None:
        """Count a line that could not be made."""
        self._queue.count()

    def reopen(self) -> None:
        """Go on in a new file, behind what waits to be written: the old one was moved away. Does not wait."""
        self._queue.reopen()

    def end(self) -> None:
        """Take no more lines; write what waits, as far as it can be done in time, and close. Does not wait."""
        self._queue.end(LAST_WORDS)

    def discard(self) -> None:
        """Close the file, as soon as it is open: it is not needed."""
        self._queue.end(0)

    @property
    def has_ended(self) -> bool:
        """Say whether it is closed, or could not be opened."""
        return self._writer.has_ended

    def close(self, seconds: float = LAST_WORDS + CONFESSION) -> None:
        """Wait for the end, which was asked for by `end`, but no longer than so many seconds."""
        self.end()
        if lines := self._writer.join(seconds):
            log.error("%s: lines are lost at the end: %d", self.path, lines)

    def _unusable(self, error: Exception) -> ConfigError:
        self.discard()
        match error:
            case TimeoutError():
                reason = f"it does not answer within {OPENING:g} s"
            case OSError():
                reason = error.strerror or str(error)
            case _:
                reason = str(error)
        return ConfigError(f"cannot open {self.path}: {reason}")


class _File:
    """The file itself."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1

    def open(self) -> None:
        self._file = _open(self._path)

    def reopen(self) -> bool:
        try:
            file = _open(self._path)
        except (OSError, QmpguardError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.error("%s cannot be opened again, going on in the old file: %s", self._path, reason)
            return False
        os.close(self._file)
        self._file = file
        log.info("%s opened again", self._path)
        return True

    def write(self, data: bytes) -> int:
        return write_all(self._file, data)

    def close(self) -> None:
        try:
            os.close(self._file)
        except OSError as error:  # NFS and quotas tell some faults only here (close(2))
            log.error("%s: what was written may be lost: %s", self._path, error.strerror)

    def confession(self, lines: int) -> bytes:
        return json.dumps({"time": time.time(), "kind": "lost", "lines": lines}).encode()

    def failed(self, reason: str) -> None:
        log.error("%s cannot be written, lines are lost: %s", self._path, reason)

    def recovered(self, lines: int) -> None:
        log.error("%s can be written again; lines lost: %d", self._path, lines)


def _open(path: str) -> int:
    """Open a regular file for adding to it, or make it. Raises `OSError`, and `ConfigError` for anything else."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        file = os.open(path, flags, PRIVATE)
    except OSError as error:
        raise _named(path, error) from error
    try:
        if kind := _KINDS.get(stat.S_IFMT(os.fstat(file).st_mode)):
            raise _irregular(kind)
        os.fchmod(file, PRIVATE)
    except (OSError, ConfigError):
        os.close(file)
        raise
    return file


def _named(path: str, error: OSError) -> Exception:
    """Return an error that says what stands in the way, where the system's own words do not."""
    if error.errno == errno.ELOOP:
        return _irregular("a symbolic link")
    if error.errno == errno.ENXIO:  # a FIFO that nobody reads, a socket (open(2))
        kind = _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode))
        return _irregular(kind or "a device")
    return error


def _irregular(kind: str) -> ConfigError:
    return ConfigError(f"it is {kind}; only a regular file is written to")
