"""An append-only file of lines, written by its own thread: a slow, full or hung disk does not block the event loop.

The thread also opens the file, since open(2) can hang too (NFS). Only regular files are written: a FIFO or a device
blocks while its reader is slow. Lines that cannot be written are counted. The log says when losses begin and end, and
the file itself gets a line with the count as soon as it can be written again.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import stat
import time
from typing import Protocol

from qmpguard.errors import ConfigError, QmpguardError
from qmpguard.logs.lines import LineQueue, LineWriter, write_all

log = logging.getLogger(__name__)

#: queued lines; some hundred bytes each, so some megabytes
MAX_WAITING = 16384
#: queued bytes: a request of a client may have four megabytes, and must not fill the memory
MAX_WAITING_BYTES = 16 << 20
#: permissions of the file
PRIVATE = 0o600
#: seconds for opening a file: a local disk needs a millisecond, a file server that restarts some seconds
OPEN_TIMEOUT = 10.0
#: seconds that the end waits for queued lines to be written
FLUSH_TIMEOUT = 5.0
#: seconds more for the line that counts the lost lines
NOTICE_TIMEOUT = 0.5
#: seconds to wait for a file that another has locked, and between two tries; its thread waits, not the event loop
LOCK_TIMEOUT, LOCK_INTERVAL = 2.0, 0.05
#: the types of files that are not written
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


class Sink(Protocol):
    """A destination of lines."""

    def put(self, line: bytes) -> None:
        """Queue a line. Never waits and never raises."""
        ...

    def count(self) -> None:
        """Count a line that could not be built as lost."""
        ...


class LineFile:
    """An append-only file. Its thread starts at once to open it. ``alone``: no other process may write it so."""

    def __init__(self, path: str, *, alone: bool = False) -> None:
        self.path = path
        self._queue = LineQueue(MAX_WAITING, MAX_WAITING_BYTES)
        self._writer = LineWriter(f"lines of {path}", _File(path, alone=alone), self._queue)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._queue.lost

    def wait_opened(self) -> None:
        """Block until the file is open; for the start of the process.

        Raises `ConfigError` where it cannot be opened.
        """
        try:
            self._writer.opened.result(OPEN_TIMEOUT)
        except (TimeoutError, OSError, QmpguardError) as error:
            raise self._unusable(error) from error

    async def opened(self) -> None:
        """Return when the file is open. Raises `ConfigError` where it cannot be opened."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await asyncio.wrap_future(self._writer.opened)
        except (TimeoutError, OSError, QmpguardError) as error:
            raise self._unusable(error) from error

    def put(self, line: bytes) -> None:
        """Queue a line. Never waits and never raises."""
        self._writer.put(line)

    def count(self) -> None:
        """Count a line that could not be built as lost."""
        self._queue.count()

    def reopen(self) -> None:
        """Reopen the file after the queued lines are written: the old file was rotated. Does not wait."""
        self._queue.reopen()

    def end(self) -> None:
        """Accept no more lines; write the queued ones within `FLUSH_TIMEOUT`, and close. Does not wait."""
        self._queue.end(FLUSH_TIMEOUT)

    def discard(self) -> None:
        """Close the file as soon as it is open; drop the queued lines. Does not wait."""
        self._queue.end(0)

    @property
    def has_ended(self) -> bool:
        """Say whether the file is closed, or could not be opened."""
        return self._writer.has_ended

    def close(self, seconds: float = FLUSH_TIMEOUT + NOTICE_TIMEOUT) -> None:
        """End, and wait until the file is closed, at most ``seconds``."""
        self.end()
        if lines := self._writer.join(seconds):
            log.error("%s: lines lost at the end: %d", self.path, lines)

    def _unusable(self, error: Exception) -> ConfigError:
        self.discard()
        match error:
            case TimeoutError():
                reason = f"it does not answer within {OPEN_TIMEOUT:g} s"
            case OSError():
                reason = error.strerror or str(error)
            case _:
                reason = str(error)
        return ConfigError(f"cannot open {self.path}: {reason}")


class _File:
    """The output of a `LineFile`."""

    def __init__(self, path: str, *, alone: bool) -> None:
        self._path = path
        self._file = -1
        self._alone = alone

    def open(self) -> None:
        self._file = self._opened()

    def reopen(self) -> bool:
        try:
            file = self._opened()
        except (OSError, QmpguardError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.error("%s cannot be reopened, the old file stays in use: %s", self._path, reason)
            return False
        os.close(self._file)
        self._file = file
        log.info("%s reopened", self._path)
        return True

    def _opened(self) -> int:
        file = open_regular(self._path)
        if not self._alone:
            return file
        if self._file >= 0 and os.path.samestat(os.fstat(file), os.fstat(self._file)):  # it was not rotated
            os.close(file)
            return os.dup(self._file)  # with its lock, which would shut a file that is opened anew out
        try:
            _lock(file)
        except ConfigError:
            os.close(file)
            raise
        return file

    def write(self, data: bytes) -> int:
        return write_all(self._file, data)

    def close(self) -> None:
        try:
            os.close(self._file)
        except OSError as error:  # NFS and quotas report some errors only here (close(2))
            log.error("%s: the last lines may be lost: %s", self._path, error.strerror)

    def loss_notice(self, lines: int) -> bytes:
        return json.dumps({"time": time.time(), "kind": "lost", "lines": lines}).encode()

    def failed(self, reason: str) -> None:
        log.error("%s cannot be written, lines are lost: %s", self._path, reason)

    def recovered(self, lines: int) -> None:
        log.error("%s can be written again; lines lost: %d", self._path, lines)


def open_regular(path: str) -> int:
    """Open or create a regular file for appending. Raises `OSError`, and `ConfigError` for any other type of file."""
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


def _lock(file: int) -> None:
    """Lock a file until it is closed. Raises `ConfigError` where another process has locked it.

    A file that was just closed by this process is waited for. A file system without locks is used as it is.
    """
    end = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise ConfigError("another guard writes it; each guard needs a recording of its own") from error
            time.sleep(LOCK_INTERVAL)
        except OSError:
            return
        else:
            return


def _named(path: str, error: OSError) -> Exception:
    """Return an error that names the type of the file, where the system's error does not."""
    if error.errno == errno.ELOOP:
        return _irregular("a symbolic link")
    if error.errno == errno.ENXIO:  # a FIFO without a reader, or a socket (open(2))
        kind = _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode))
        return _irregular(kind or "a device")
    return error


def _irregular(kind: str) -> ConfigError:
    return ConfigError(f"it is {kind}; only a regular file can be written")
