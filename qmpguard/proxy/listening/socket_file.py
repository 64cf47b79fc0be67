"""A listening socket and, for a unix socket, its file. A stale socket at the path is replaced, any other file never.

No connection is accepted here.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from qmpguard.address import Address, FdAddress, TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError

#: connections that may wait to be accepted: the kernel's limit (net.core.somaxconn since Linux 5.4). A non-blocking
#: connect(2) to a unix socket with a full backlog fails with EAGAIN, which few tools expect
BACKLOG = 4096

#: device and inode: the identity of a file
FileId: TypeAlias = tuple[int, int]


@dataclass(slots=True)
class Listening:
    """An open listening socket. ``path`` is None where it has no file.

    ``file`` is a descriptor of the socket's file: it keeps the inode number from being given to another file.
    """

    sock: socket.socket
    path: str | None = None
    file: int = -1

    @property
    def has_path(self) -> bool:
        """Say whether the path still leads to this socket: another process may have removed or replaced it."""
        return self.path is not None and self.file >= 0 and file_id(self.path) == _id(os.fstat(self.file))

    def close(self) -> None:
        """Close the socket, and remove its file if the path still leads to it."""
        if self.path and self.has_path:
            Path(self.path).unlink(missing_ok=True)
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
        self.sock.close()


def open_listening(address: Address, mode: int, group: int | None) -> Listening:
    """Return a socket that listens at an address and does not block. Raises `UnavailableError`."""
    try:
        listening = _open(address, mode, group)
    except (OSError, ValueError, OverflowError) as error:  # ValueError: a host or path that Python itself refuses
        raise UnavailableError(f"cannot listen at {address}: {_error_text(error)}") from error
    listening.sock.setblocking(False)
    return listening


def set_file_permissions(path: str, mode: int, group: int | None) -> None:
    """Set the mode and the group of a socket's file; None: leave the group. Raises `OSError`.

    While the group changes, no group may connect: the old one must not do so by the new mode, nor the new one by the
    old mode. Others may do what both modes permit.
    """
    status = os.lstat(path)
    before = stat.S_IMODE(status.st_mode)
    if group is not None:
        if status.st_gid != group:
            Path(path).chmod(before & mode & ~stat.S_IRWXG)
        try:
            os.chown(path, -1, group, follow_symlinks=False)
        except OSError:
            Path(path).chmod(before)
            raise
    Path(path).chmod(mode)


def file_id(path: str) -> FileId | None:
    """Return the identity of the file at a path; None where there is none, or it is not accessible."""
    try:
        return _id(os.lstat(path))
    except OSError:
        return None


def is_unused(path: Path) -> bool:
    """Say whether no process listens at a socket, by connecting to it. Raises `OSError` for any other failure."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:  # the backlog is full, so a process listens
            return False
    return False


def _open(address: Address, mode: int, group: int | None) -> Listening:
    match address:
        case FdAddress(number):
            return Listening(_checked_listening(number))
        case TcpAddress(host, port):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return Listening(socket.create_server((host, port), family=family, backlog=BACKLOG))
        case UnixAddress(path) if path.startswith("\0"):  # an abstract name, which has no file (unix(7))
            return Listening(_bound(path, mode))
        case UnixAddress(path):
            _remove_stale(path)
            bound = _bound(path, mode if group is None else mode & ~stat.S_IRWXG, listen=False)
            return _listen_with_file(bound, path, mode, group)


def _bound(path: str, mode: int, *, listen: bool = True) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
        if listen:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock


def _listen_with_file(sock: socket.socket, path: str, mode: int, group: int | None) -> Listening:
    """Listen at a bound socket and set the group of its file. On an error the file is removed."""
    listening = Listening(sock, path)
    try:
        listening.file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        if group is not None:
            set_file_permissions(path, mode, group)
        sock.listen(BACKLOG)
    except BaseException:
        if listening.file < 0:
            Path(path).unlink(missing_ok=True)
        listening.close()
        raise
    return listening


def _checked_listening(number: int) -> socket.socket:
    """Return the listening socket of a descriptor. Raises `OSError` for any other descriptor, and leaves it open."""
    sock = socket.socket(fileno=number)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise OSError(errno.EINVAL, "it is not a listening stream socket")
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket at which no process listens. Raises `UnavailableError` for any other file at the path."""
    try:
        status = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise UnavailableError(f"cannot listen at {path}: a file that is not a socket is there; remove it yourself")
    if not is_unused(Path(path)):
        raise UnavailableError(f"cannot listen at {path}: another process listens there")
    Path(path).unlink(missing_ok=True)


def _id(status: os.stat_result) -> FileId:
    return status.st_dev, status.st_ino


def _error_text(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
