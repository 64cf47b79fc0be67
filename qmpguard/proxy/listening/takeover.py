"""The takeover of QEMU's socket, so that tools can connect to the same path as before.

QEMU's socket is moved from PATH into a directory that only the guard may enter (`moved_socket`). The guard listens at
PATH with the owner and the mode of QEMU's socket. At the end QEMU's socket is moved back. Moving a socket's file does
not affect the listening process. A lock file beside it distinguishes a running guard from one that was killed.

A guard can be killed between any two system calls. So owner and mode of QEMU's socket are written into the lock before
anything changes: the next guard finds the socket at one of its paths, with any mode, and can restore it.

The takeover does not connect to QEMU's socket: QEMU serves one client at a time, and a connection that closes at once
delays the next client. The one exception is a QEMU that was restarted while no guard ran: its socket must be
distinguished from a stale one.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.address import UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening.listener import Listener
from qmpguard.proxy.listening.moved_socket import MovedSocket, socket_status
from qmpguard.proxy.listening.socket_file import is_unused

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from qmpguard.proxy.listening.moved_socket import FoundSocket
    from qmpguard.record import Peer

log = logging.getLogger(__name__)

#: the suffix of the lock
LOCK_SUFFIX = ".qemu.lock"
#: Seconds between two checks of the path, with a link to QEMU and without. A QEMU that restarts takes the path, and
#: until the next check clients can connect to it directly. QEMU takes a tenth of a second to start.
CHECK_WHILE_LINKED, CHECK_WHILE_UNLINKED = 0.1, 0.02
#: characters of the text in the lock, a fixed number, so that a shorter text overwrites a longer one completely
NOTE_SIZE = 120
#: mode bits of a lock that other users can write
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class SocketOwner(NamedTuple):
    """The owner and the permissions of a socket's file."""

    mode: int
    uid: int
    gid: int


def take_over(path: str, accepted: Callable[[socket.socket, Peer], None]) -> Listener:
    """Move QEMU's socket and return a listener at its path; closing the listener moves QEMU's socket back.

    Raises `UnavailableError` where there is no socket, or another guard has taken it over.
    """
    takeover = Takeover(path)
    try:
        owner = takeover.begin()
        # until the file has the owner and the group of QEMU's, the guard's own group must not connect by QEMU's mode
        mode = owner.mode & ~stat.S_IRWXG
        listener = Listener(UnixAddress(path), accepted, mode=mode, path_keeper=takeover)
    except OSError as error:
        takeover.give_back()
        raise UnavailableError(f"cannot take over {path}: {error.strerror}") from error
    except BaseException:
        takeover.give_back()
        raise
    _set_owner(path, owner)
    log.info("took the place of %s", path)
    return listener


class Takeover:
    """QEMU's socket while it is moved."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._moved = MovedSocket(path)
        self._lock = _Lock(path + LOCK_SUFFIX)
        self._original: SocketOwner | None = None  # what QEMU's socket was like; None while the place is not ours

    @property
    def qemu(self) -> UnixAddress:
        """The address of QEMU's socket while it is moved."""
        return UnixAddress(str(self._moved.path))

    @property
    def unprotected(self) -> str:
        """The reason why QEMU's socket is not in a directory of the guard's own; empty: it is."""
        return self._moved.unprotected

    def begin(self) -> SocketOwner:
        """Move QEMU's socket, or find it moved already, and return its original owner and mode.

        Raises `UnavailableError` or `OSError`.
        """
        self._lock.acquire()
        self._moved.prepare()
        if self.unprotected:
            log.warning("%s: QEMU's socket stays beside it, with mode 0600: %s", self._path, self.unprotected)
        here, found = socket_status(self._path), self._moved.find()
        if found is not None and (here is None or is_unused(self._path)):
            log.warning("%s: a guard was killed here; going on with %s", self._path, found.path)
            return self._go_on(found, here)
        if here is None:
            raise UnavailableError(f"cannot take over {self._path}: no such socket; QEMU must be started first")
        return self._move(here)

    def give_back(self) -> None:
        """Move QEMU's socket back, and restore its mode. Never raises: an error is logged."""
        moved, self._original = self._original, None
        try:
            if moved is not None and self._moved.give_back(moved.mode):
                log.info("put %s back", self._path)
        except OSError as error:
            log.error("cannot put %s back to %s: %s", self._moved.path, self._path, error.strerror)
        self._moved.remove_directory()
        self._lock.release()

    async def keep(self, listener: Listener, connected: asyncio.Event) -> None:
        """Take the socket of a restarted QEMU over. QEMU removes the guard's socket file when it starts."""
        last_error = None
        while True:
            await asyncio.sleep(CHECK_WHILE_LINKED if connected.is_set() else CHECK_WHILE_UNLINKED)
            if self._original is None or listener.has_socket_file:
                continue
            try:
                self._retake(listener, linked=connected.is_set())
            except Exception as error:
                if str(error) != last_error:
                    log.error("%s was replaced: %s", self._path, error, exc_info=_traced(error))
                last_error = str(error)

    def _retake(self, listener: Listener, *, linked: bool) -> None:
        here = socket_status(self._path)
        if here is not None and linked:
            raise UnavailableError("another process listens there, while QEMU still listens at the moved socket")
        if here is not None:
            self._move(here)
        elif not linked:
            return  # QEMU has ended, and removed the socket, as it does
        listener.reopen()
        assert self._original is not None
        _set_owner(str(self._path), self._original)
        log.info("took the place of %s again", self._path)

    def _move(self, here: os.stat_result) -> SocketOwner:
        self._lock.write_owner(here)
        owner = _owner(here)
        self._moved.ensure_directory()  # it may have been removed while QEMU was gone
        self._moved.move(self._path, owner.mode)
        self._original = owner
        return owner

    def _go_on(self, found: FoundSocket, here: os.stat_result | None) -> SocketOwner:
        """Take the socket that a killed guard has left. One beside the path has not its original mode."""
        in_directory = found.path == self._moved.path and not self.unprotected
        owner = self._lock.read_owner(found.status) or _owner(found.status if in_directory else here or found.status)
        self._moved.move(found.path, owner.mode)
        self._original = owner
        return owner


class _Lock:
    """A lock file. It is removed when the lock is released.

    It contains owner, mode and identity of the socket that is moved, or will be: ``MODE UID GID DEVICE INODE``.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._file = -1

    def acquire(self) -> None:
        """Lock the file. Raises `UnavailableError` where another process has locked it."""
        while self._file < 0:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), self._path.lstat()):
                    self._file = file
            except BlockingIOError:
                raise UnavailableError(f"{self._path} is locked: another guard has taken this socket over") from None
            except FileNotFoundError:
                pass  # its owner has just released it
            finally:
                if self._file < 0:
                    os.close(file)

    def write_owner(self, status: os.stat_result) -> None:
        """Write a socket's owner and mode, before they change. Raises `OSError`."""
        mode, uid, gid = _owner(status)
        text = f"{mode:o} {uid} {gid} {status.st_dev} {status.st_ino}".ljust(NOTE_SIZE) + "\n"
        os.pwrite(self._file, text.encode(), 0)

    def read_owner(self, status: os.stat_result) -> SocketOwner | None:
        """Return the written owner and mode of a socket; None without them, or where other users can write the lock."""
        lock = os.fstat(self._file)
        if lock.st_uid not in (0, os.geteuid()) or lock.st_mode & _WRITABLE_BY_OTHERS:
            return None
        match os.pread(self._file, NOTE_SIZE, 0).split():
            case [mode, uid, gid, device, inode] if (device, inode) == (b"%d" % status.st_dev, b"%d" % status.st_ino):
                return _parse_owner(mode, uid, gid)
        return None

    def release(self) -> None:
        """Release the lock and remove the file; does nothing where it is not locked."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def _owner(status: os.stat_result) -> SocketOwner:
    return SocketOwner(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def _parse_owner(mode: bytes, uid: bytes, gid: bytes) -> SocketOwner | None:
    try:
        return SocketOwner(int(mode, 8) & 0o777, int(uid), int(gid))
    except ValueError:
        return None


def _traced(error: Exception) -> Exception | None:
    """Return an error whose trace should be logged; None for an error of the system."""
    return None if isinstance(error, OSError | UnavailableError) else error


def _set_owner(path: str, owner: SocketOwner) -> None:
    """Give the guard's socket the owner of QEMU's, and then its mode, as far as permitted. Never raises."""
    try:
        if _owner(os.lstat(path))[1:] != owner[1:]:
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    except OSError as error:
        log.warning("%s cannot belong to user %d, group %d: %s", path, owner.uid, owner.gid, error.strerror)
    try:
        Path(path).chmod(owner.mode)
    except OSError as error:
        log.warning("%s cannot have mode %o: %s", path, owner.mode, error.strerror)
