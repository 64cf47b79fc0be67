"""The socket that clients come in by. A stale socket is replaced, anything else at its path never."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qmpguard.address import Address, FdAddress, TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.record import Peer

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

#: clients that may wait to be accepted: the kernel's own limit (net.core.somaxconn since Linux 5.4). A connect to a
#: unix socket whose backlog is full fails at once with EAGAIN where the client does not block, as few tools expect
BACKLOG = 4096
#: clients accepted in one wake-up, before everybody else gets their turn
BATCH = 64
#: seconds without accepting after the process has run out of descriptors or memory: they are weather
PAUSE = 0.5
_WEATHER = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: supplementary groups of a peer (asm-generic/socket.h); Python has no name for it
SO_PEERGROUPS = 59
#: bytes that getsockopt takes from Python at most, in groups
MAX_GROUPS = 256
_CREDENTIALS = struct.Struct("3i")


class Place(Protocol):
    """Who sees to the path of a socket that is not free for the taking."""

    def leave(self) -> None:
        """Give the path back."""
        ...

    async def keep(self, listener: Listener, connected: asyncio.Event) -> None:
        """See to it that the path stays the listener's, until cancelled; ``connected``: there is a link to QEMU."""
        ...


class Listener:
    """An open listening socket. Each client goes to ``accepted`` with who it is.

    A ``place`` gives the path back when the listener closes, and decides who may connect.
    """

    def __init__(
        self,
        address: Address,
        accepted: Callable[[socket.socket, Peer], None],
        *,
        mode: int = 0o600,
        group: int | None = None,
        place: Place | None = None,
    ) -> None:
        """Open the socket; raises `UnavailableError` when it cannot be had."""
        self.accepted = accepted
        self.place = place
        self._address = address
        self._permissions = (mode, group)
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._begin()

    def _begin(self) -> None:
        self._path: str | None = None
        self._file = -1  # keeps the number of the socket's file from being given to another one
        try:
            self._sock = self._open(self._address, *self._permissions)
        except OSError as error:
            raise UnavailableError(f"cannot listen at {self._address}: {error.strerror}") from error
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self.accept)

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self._sock.fileno() < 0:
            return
        if self.place is not None:
            self.place.leave()
        self._end()

    def reopen(self) -> None:
        """Listen at the same address anew, since its path leads elsewhere. Raises `UnavailableError`."""
        self._end()
        self._begin()

    def _end(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        if self._path and self.still_ours:
            Path(self._path).unlink(missing_ok=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._sock.close()

    def permit(self, mode: int, group: int | None) -> tuple[int, int | None]:
        """Change who may connect to a unix socket, and return what held before. Raises `UnavailableError`."""
        if self.place is not None:
            return self._permissions
        before, self._permissions = self._permissions, (mode, group)
        if self._path and before != self._permissions and self.still_ours:
            try:
                _give(self._path, group)
                Path(self._path).chmod(mode)
            except OSError as error:
                self._permissions = before
                raise UnavailableError(f"cannot change {self._path}: {error.strerror}") from error
        return before

    def _open(self, address: Address, mode: int, group: int | None) -> socket.socket:
        match address:
            case FdAddress(number):
                return _listening(number)
            case TcpAddress(host, port):
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                return socket.create_server((host, port), family=family, backlog=BACKLOG)
            case UnixAddress(path) if path.startswith("\0"):  # an abstract name, which leaves nothing behind (unix(7))
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.bind(path)
                sock.listen(BACKLOG)
                return sock
            case UnixAddress(path):
                _clear(path)
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                umask = os.umask(0o777 & ~mode)
                try:
                    sock.bind(path)
                except OSError:
                    sock.close()
                    raise
                finally:
                    os.umask(umask)
                try:
                    _give(path, group)
                except OSError:
                    sock.close()
                    Path(path).unlink()
                    raise
                self._path = path
                self._file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
                sock.listen(BACKLOG)
                return sock

    @property
    def still_ours(self) -> bool:
        """Say whether the path still leads to our socket: another guard may have taken it over."""
        if self._path is None or self._file < 0:
            return False
        try:
            return os.path.samestat(Path(self._path).lstat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def accept(self) -> None:
        """Accept who has connected already."""
        for _ in range(BATCH):
            try:
                sock, _peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _WEATHER:
                    raise
                log.warning("cannot accept: %s; trying again in %g s", error.strerror, PAUSE)
                self._loop.remove_reader(self._sock.fileno())
                self._loop.call_later(PAUSE, self._again)
                return
            self._count += 1
            if sock.family != socket.AF_UNIX:
                # a small reply must not wait for the acknowledgement of the one before (tcp(7))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted(sock, _who(sock, self._count))

    def _again(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock.fileno(), self.accept)


def _listening(number: int) -> socket.socket:
    """Return an open socket that clients can connect to. Raises `OSError` for any other, and leaves it open."""
    sock = socket.socket(fileno=number)
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise OSError(errno.EINVAL, "it is no listening stream socket")
    return sock


def _give(path: str, group: int | None) -> None:
    if group is not None:
        os.chown(path, -1, group, follow_symlinks=False)


def _clear(path: str) -> None:
    """Remove a socket that nobody listens at; raises `UnavailableError` for anything else that is there."""
    try:
        status = Path(path).lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise UnavailableError(f"cannot listen at {path}: there is something that is no socket; remove it yourself")
    if not is_deserted(Path(path)):
        raise UnavailableError(f"cannot listen at {path}: another process listens there")
    Path(path).unlink(missing_ok=True)


def is_deserted(path: Path) -> bool:
    """Say whether nobody listens at a socket, by connecting to it. Raises `OSError` where nobody can tell."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:  # its backlog is full: somebody is there
            return False
    return False


def _who(sock: socket.socket, number: int) -> Peer:
    """Return who is at the other end: of a unix socket its process, user and groups (unix(7): SO_PEERCRED).

    The groups are those that the process has, not those that a user data base gives its user.
    """
    if sock.family != socket.AF_UNIX:
        return Peer(number)
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(number, pid, uid, gid, _groups(sock))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS * 4)
    except OSError:  # Linux before 4.13, or more groups than any list can want
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
