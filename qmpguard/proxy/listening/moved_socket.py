"""QEMU's moved socket, and the directory in which a takeover keeps it: `PATH.guard/qemu` for a socket at `PATH`.

The directory has mode 0700 and belongs to the guard's user. So QEMU cannot connect to its own monitor, unless it runs
as that user or as root. The socket in it keeps its owner and mode. Where the directory cannot be made, the socket is
`PATH.qemu`, as in earlier versions; there it is protected by mode 0600 only.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.address import MAX_UNIX_PATH, UnixAddress
from qmpguard.errors import UnavailableError

if TYPE_CHECKING:
    from qmpguard.address import QemuAddress

#: the suffix of the directory, and the socket's name in it
DIRECTORY_SUFFIX, NAME = ".guard", "qemu"
#: the suffix of the socket where there is no directory
BESIDE_SUFFIX = ".qemu"
#: permissions of the directory
DIRECTORY_MODE = 0o700
#: permissions of the socket where there is no directory
BESIDE_MODE = 0o600


class FoundSocket(NamedTuple):
    """A socket that was moved by a guard: its path, and its file's status."""

    path: Path
    status: os.stat_result


def moved_path(path: str) -> str:
    """Return where a takeover of a path moves QEMU's socket, if it can make the directory."""
    private = f"{path}{DIRECTORY_SUFFIX}/{NAME}"
    return private if len(os.fsencode(private)) <= MAX_UNIX_PATH else path + BESIDE_SUFFIX


def takeover_hint(address: QemuAddress) -> str:
    """Return where a guard that was killed has left the socket of an address, for an error's text; empty: nowhere.

    A directory that this user may not enter counts as such a place.
    """
    if not isinstance(address, UnixAddress):
        return ""
    places = (f"{address.path}{DIRECTORY_SUFFIX}/{NAME}", address.path + BESIDE_SUFFIX)
    left = next((place for place in places if _may_be_socket(place)), None)
    if left is None:
        return ""
    return f"; a guard with --takeover has moved QEMU's socket to {left}: start it again with --takeover {address.path}"


def _may_be_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except (OSError, ValueError) as error:
        return isinstance(error, PermissionError)


class MovedSocket:
    """The place of one moved socket. ``unprotected`` is the reason why it has no directory; empty: it has one."""

    def __init__(self, original: str) -> None:
        self.unprotected = ""
        self._original = Path(original)
        self._beside = Path(original + BESIDE_SUFFIX)
        self._directory = Path(original + DIRECTORY_SUFFIX)

    @property
    def path(self) -> Path:
        """The path of the socket while it is moved."""
        return self._beside if self.unprotected else self._directory / NAME

    def prepare(self) -> None:
        """Make the directory, or set ``unprotected``.

        Raises `UnavailableError` where the directory belongs to another user: QEMU's socket may be in it.
        """
        if moved_path(str(self._original)) == str(self._beside):
            self.unprotected = f"the path of a socket in {self._directory} would be too long"
            return
        try:
            self.ensure_directory()
        except OSError as error:
            self._reject_other_owner()
            self.unprotected = f"{self._directory} cannot be made a directory of the guard's own: {error.strerror}"

    def find(self) -> FoundSocket | None:
        """Return the socket that another guard has left moved; None where there is none.

        Raises `UnavailableError` where a file is there that is not a socket.
        """
        for path in (self.path, self._beside):
            if (status := socket_status(path)) is not None:
                return FoundSocket(path, status)
        return None

    def move(self, source: Path, mode: int) -> None:
        """Move a socket here; ``mode`` is its original mode. Raises `OSError`."""
        if source != self.path:
            source.rename(self.path)
        _set_mode(self.path, BESIDE_MODE if self.unprotected else mode)

    def give_back(self, mode: int) -> bool:
        """Move the socket to its original path, with its original mode; return whether there was one.

        Raises `OSError`.
        """
        if not self.path.exists():
            return False
        _set_mode(self.path, mode)
        self.path.rename(self._original)
        return True

    def remove_directory(self) -> None:
        """Remove the directory if it is empty. Never raises."""
        with suppress(OSError):
            self._directory.rmdir()

    def ensure_directory(self) -> None:
        """Make the directory, if the socket has one and it is not there. Raises `OSError`."""
        if self.unprotected:
            return
        with suppress(FileExistsError):
            self._directory.mkdir(DIRECTORY_MODE)
        file = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(file).st_uid != os.geteuid():
                self._reject_planted()
                os.fchown(file, os.geteuid(), os.getegid())
            os.fchmod(file, DIRECTORY_MODE)
        finally:
            os.close(file)

    def _reject_planted(self) -> None:
        """Raise `OSError` where any user could have made the directory, and put a socket of its own in."""
        if self._directory.parent.stat().st_mode & stat.S_IWOTH:
            raise PermissionError(errno.EPERM, "another user has made it, where every user may make one")

    def _reject_other_owner(self) -> None:
        with suppress(FileNotFoundError):
            status = self._directory.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid != os.geteuid():
                raise UnavailableError(
                    f"cannot take over {self._original}: {self._directory} belongs to user {status.st_uid}, whose "
                    "guard may keep QEMU's socket there; run this guard as that user or as root, or remove the "
                    "directory"
                )


def socket_status(path: Path) -> os.stat_result | None:
    """Return the status of a socket's file; None where there is no file. Raises `UnavailableError` for other files."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(status.st_mode):
        raise UnavailableError(f"cannot take over {path}: it is not a socket")
    return status


def _set_mode(path: Path, mode: int) -> None:
    """Set the mode of a socket's file, if it differs. Raises `OSError`."""
    if stat.S_IMODE(path.lstat().st_mode) != mode:
        path.chmod(mode)
