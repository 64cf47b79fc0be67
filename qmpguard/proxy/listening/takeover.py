"""Taking the place of QEMU's socket, so that tools go on connecting where they did.

QEMU's socket is moved from PATH to PATH.qemu, with access for nobody but its owner, and the guard listens at PATH with
the owner and the mode that QEMU's had. At the end QEMU's goes back. Moving a socket's file does not disturb who listens
at it. A lock beside it tells a guard that lives from one that was killed.

A guard can be killed between any two system calls. So what QEMU's socket was like is written into the lock before
anything changes: the next guard finds the socket at one of the two paths, in any mode, and gives it back as it was.

QEMU's socket is never connected to from here: it takes one client, and one that goes away again holds up the next. The
one exception is a QEMU that was started anew while no guard was there, which must be told from a socket left behind.
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
from qmpguard.proxy.listening.socket_file import is_deserted

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from qmpguard.record import Peer

log = logging.getLogger(__name__)

#: what is put behind the path of QEMU's own socket, and of the lock
ASIDE, LOCK = ".qemu", ".qemu.lock"
#: Seconds between two looks at whether the path is still ours, with a link to QEMU and without: a QEMU that starts anew
#: takes it, and until the next look its socket is open to everybody. A QEMU takes a tenth of a second to start.
LINKED, UNLINKED = 0.1, 0.02
#: permissions of QEMU's socket while it is aside
PRIVATE = 0o600
#: characters of what is written into the lock: always as many, so that a shorter text leaves nothing of a longer one
NOTE = 120
#: bits of a lock's mode with which others could have written it
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class SocketOwner(NamedTuple):
    """Whose a socket's file is, and its permissions."""

    mode: int
    uid: int
    gid: int


def take_over(path: str, accepted: Callable[[socket.socket, Peer], None]) -> Listener:
    """Take QEMU's place and return the socket that listens there; closing it gives the place back.

    Raises `UnavailableError` where there is no socket, or another guard has its place.
    """
    takeover = Takeover(path)
    try:
        owner = takeover.begin()
        listener = Listener(UnixAddress(path), accepted, mode=owner.mode, place=takeover)
    except OSError as error:
        takeover.leave()
        raise UnavailableError(f"cannot take over {path}: {error.strerror}") from error
    except BaseException:
        takeover.leave()
        raise
    _own(path, owner)
    log.info("took the place of %s", path)
    return listener


class Takeover:
    """QEMU's socket while it is aside."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._aside = Path(path + ASIDE)
        self._lock = _Lock(path + LOCK)
        self._moved: SocketOwner | None = None  # what QEMU's socket was like; None while the place is not ours

    def begin(self) -> SocketOwner:
        """Move QEMU's socket aside, or find it there, and return what it was like.

        Raises `UnavailableError` or `OSError`.
        """
        self._lock.take()
        here, aside = _socket(self._path), _socket(self._aside)
        if aside is not None and (here is None or is_deserted(self._path)):
            log.warning("%s: a guard was killed here; going on with %s", self._path, self._aside)
            self._moved = self._lock.noted(aside) or _owner(here or aside)
            self._aside.chmod(PRIVATE)
            return self._moved
        if here is None:
            raise UnavailableError(f"cannot take over {self._path}: no such socket; QEMU must be started first")
        return self._move(here)

    def leave(self) -> None:
        """Put QEMU's socket back as it was. Never raises: where it cannot be done, the log says so."""
        moved, self._moved = self._moved, None
        try:
            if moved is not None and self._aside.exists():
                self._aside.chmod(moved.mode)
                self._aside.rename(self._path)
                log.info("put %s back", self._path)
        except OSError as error:
            log.error("cannot put %s back to %s: %s", self._aside, self._path, error.strerror)
        self._lock.drop()

    async def keep(self, listener: Listener, connected: asyncio.Event) -> None:
        """Take the place of a QEMU that is started anew at the path; QEMU removes what is there without a question."""
        told = None
        while True:
            await asyncio.sleep(LINKED if connected.is_set() else UNLINKED)
            if self._moved is None or listener.still_ours:
                continue
            try:
                self._again(listener, linked=connected.is_set())
            except Exception as error:
                if str(error) != told:
                    log.error("%s is not ours any more: %s", self._path, error, exc_info=_unexpected(error))
                told = str(error)

    def _again(self, listener: Listener, *, linked: bool) -> None:
        here = _socket(self._path)
        if here is not None and linked:
            raise UnavailableError("another process listens there, while QEMU is still at the socket that was aside")
        if here is not None:
            self._move(here)
        elif not linked:
            return  # QEMU has ended, and removed the socket, as it does
        listener.reopen()
        assert self._moved is not None
        _own(str(self._path), self._moved)
        log.info("took the place of %s again", self._path)

    def _move(self, here: os.stat_result) -> SocketOwner:
        self._lock.note(here)
        self._path.rename(self._aside)
        self._moved = _owner(here)
        self._aside.chmod(PRIVATE)
        return self._moved


class _Lock:
    """A file that one living process has locked. It is removed with the lock.

    In it stands what the socket was like that is aside, or is about to be: ``MODE UID GID DEVICE INODE``.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._file = -1

    def take(self) -> None:
        """Lock it. Raises `UnavailableError` where another process has."""
        while self._file < 0:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(file), self._path.lstat()):
                    self._file = file
            except BlockingIOError:
                raise UnavailableError(f"{self._path} is locked: another guard has taken this socket over") from None
            except FileNotFoundError:
                pass  # its owner has just removed it
            finally:
                if self._file < 0:
                    os.close(file)

    def note(self, status: os.stat_result) -> None:
        """Write down what a socket is like, before that changes. Raises `OSError`."""
        mode, uid, gid = _owner(status)
        text = f"{mode:o} {uid} {gid} {status.st_dev} {status.st_ino}".ljust(NOTE) + "\n"
        os.pwrite(self._file, text.encode(), 0)

    def noted(self, status: os.stat_result) -> SocketOwner | None:
        """Return what a socket was like when it was written down; None if it was not, or somebody else may have."""
        lock = os.fstat(self._file)
        if lock.st_uid not in (0, os.geteuid()) or lock.st_mode & _OTHERS:
            return None
        match os.pread(self._file, NOTE, 0).split():
            case [mode, uid, gid, device, inode] if (device, inode) == (b"%d" % status.st_dev, b"%d" % status.st_ino):
                return _read(mode, uid, gid)
        return None

    def drop(self) -> None:
        """Let it go; nothing happens where it was not taken."""
        if self._file >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def _socket(path: Path) -> os.stat_result | None:
    """Return what a socket is like, None where there is nothing. Raises `UnavailableError` for anything else."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(status.st_mode):
        raise UnavailableError(f"cannot take over {path}: it is no socket")
    return status


def _owner(status: os.stat_result) -> SocketOwner:
    return SocketOwner(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def _read(mode: bytes, uid: bytes, gid: bytes) -> SocketOwner | None:
    try:
        return SocketOwner(int(mode, 8) & 0o777, int(uid), int(gid))
    except ValueError:
        return None


def _unexpected(error: Exception) -> Exception | None:
    """Return an error whose trace belongs into the log: one that the surroundings do not explain."""
    return None if isinstance(error, OSError | UnavailableError) else error


def _own(path: str, owner: SocketOwner) -> None:
    """Give our socket the owner and the mode that QEMU's has, as far as we may. Never raises."""
    try:
        ours = _owner(os.lstat(path))
        if ours[1:] != owner[1:]:
            os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
        if ours != owner:
            Path(path).chmod(owner.mode)  # chown(2) may have cleared bits
    except OSError as error:
        log.warning("%s cannot belong to user %d, group %d: %s", path, owner.uid, owner.gid, error.strerror)
