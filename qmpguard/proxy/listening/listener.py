"""A listening socket for clients: access, rate limit, and the errors of accept(2).

* No exception leaves the event loop's callback. An error of one connection, or an exception of ``on_accept``, closes
  that connection only. Any other error of accept(2) counts as a temporary shortage: accepting pauses.
* A storm of connections costs other clients at most `BATCH` accepts in one iteration of the event loop, and at most
  `AcceptRate` accepts in a second. One that has left before it was accepted does not count.
* A client never gets one of the last descriptors: they are reserved for links, files and the guard's own sockets.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from typing import TYPE_CHECKING

from qmpguard.address import Address, FdAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening.accept_rate import AcceptRate
from qmpguard.proxy.listening.peer import peer_of, raise_if_left
from qmpguard.proxy.listening.socket_file import FileId, file_id, open_listening, set_file_permissions
from qmpguard.proxy.sockets.descriptors import is_reserved
from qmpguard.rate import LogRate

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.proxy.listening.path_keeper import PathKeeper
    from qmpguard.record import Peer

log = logging.getLogger(__name__)

#: clients accepted in one iteration of the event loop, at 0.1 ms each
BATCH = 8
#: clients accepted when a socket is about to be closed, so that pending connections are not lost
MAX_FINAL_ACCEPTS = 64
#: seconds without accepting after a shortage of descriptors or memory
ACCEPT_PAUSE = 0.5
#: lines of log of one kind and one socket in a minute, since each pause logs one
LOG_LINES, LOG_INTERVAL = 2, 60.0
#: errors of one connection that has failed before it was accepted (accept(2), "Error handling")
_PER_CONNECTION = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENONET),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)


class Listener:
    """An open listening socket. ``on_accept`` is called with each client's socket and peer.

    ``label`` begins each line of log about it (``vm=NAME``). ``refuse`` returns the reason to refuse a peer; None: it
    is accepted. ``on_full`` is called when a client was closed because the descriptor table is nearly full; None: the
    socket is the guard's own, and its clients may use the reserved part. A ``path_keeper`` restores the path's former
    socket when the listener closes, and sets the permissions. ``errors`` counts the errors of accept(2) and the
    exceptions of ``on_accept``. While the listener is ``suspended`` no client can connect.
    """

    def __init__(
        self,
        address: Address,
        on_accept: Callable[[socket.socket, Peer], None],
        *,
        mode: int = 0o600,
        group: int | None = None,
        path_keeper: PathKeeper | None = None,
        label: str = "",
        refuse: Callable[[Peer], str | None] | None = None,
        on_full: Callable[[], None] | None = None,
    ) -> None:
        """Open the socket; raises `UnavailableError` when that fails."""
        self.on_accept = on_accept
        self.label = label
        self.on_full = on_full
        self.path_keeper = path_keeper
        self.errors: Counter[str] = Counter()
        self.suspended = False
        self._refuse = refuse
        self._address = address
        self._permissions = (mode, group)
        self._count = 0
        self._accept_rate = AcceptRate()
        self._rate = LogRate(LOG_LINES, LOG_INTERVAL)
        self._lost: tuple[FileId | None, str] | None = None  # the file found at the path instead, and the logged error
        self._resume: asyncio.TimerHandle | None = None
        self._listening = open_listening(address, *self._permissions)
        self._watch()

    # the socket and its file

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self.is_closed and not self.suspended:
            return
        if self.path_keeper is not None:
            self.path_keeper.give_back()
        if not self.is_closed:
            self._unwatch()
            self._listening.close()
        self.suspended = False

    def suspend(self) -> None:
        """Close the socket and remove its file until `resume`, as QEMU does when it ends.

        A socket that was passed to the process stays open: clients that connect there are closed at once.
        """
        if self.suspended or self.is_closed:
            return
        self.suspended = True
        if not isinstance(self._address, FdAddress):
            self._unwatch()
            self._listening.close()

    def resume(self) -> None:
        """Listen again. Raises `UnavailableError`; then the listener is still suspended.

        With a ``path_keeper``, `PathKeeper.keep` listens again, since another socket may have the path by now.
        """
        if self.suspended and self.is_closed and self.path_keeper is None:
            self._listening = open_listening(self._address, *self._permissions)
            self._watch()
        self.suspended = False

    @property
    def is_closed(self) -> bool:
        """Say whether the socket is closed."""
        return self._listening.sock.fileno() < 0

    @property
    def has_socket_file(self) -> bool:
        """Say whether the path still leads to this socket: another guard may have taken it over."""
        return self._listening.has_path

    def reopen(self) -> None:
        """Listen at the same address again, since its path leads to another file.

        Raises `UnavailableError`; then the old socket is still open.
        """
        fresh = open_listening(self._address, *self._permissions)
        if not self.is_closed:
            self.accept()  # the pending connections of the old socket
            self._unwatch()
            self._listening.close()
        self._listening = fresh
        self.suspended = False
        self._watch()

    def restore(self) -> None:
        """Listen again if the socket's file was removed, or replaced by a socket at which no process listens.

        Any other file at the path is left alone, and checked only once: a connection could disturb its owner.
        """
        if self.is_closed or self._listening.path is None or self.path_keeper is not None or self.has_socket_file:
            self._lost = None
            return
        found = file_id(self._listening.path)
        if found is not None and self._lost is not None and self._lost[0] == found:
            return
        try:
            self.reopen()
        except UnavailableError as error:
            self._log_lost(found, str(error))
            return
        self._lost = None
        log.warning("%ssocket=%s was removed; listening there again", self._prefix, self._address)

    def _log_lost(self, found: FileId | None, why: str) -> None:
        if self._lost is None or self._lost[1] != why:
            log.error("%ssocket=%s is gone, no client can connect: %s", self._prefix, self._address, why)
        self._lost = (found, why)

    def set_permissions(self, mode: int, group: int | None) -> tuple[int, int | None]:
        """Set mode and group of a unix socket's file, and return the old ones. Raises `UnavailableError`."""
        if self.path_keeper is not None:
            return self._permissions
        before, self._permissions = self._permissions, (mode, group)
        path = self._listening.path
        if path and before != self._permissions and self.has_socket_file:
            try:
                set_file_permissions(path, mode, group)
            except OSError as error:
                self._permissions = before
                raise UnavailableError(f"cannot change {path}: {error.strerror}") from error
        return before

    @property
    def name(self) -> str:
        """The path from getsockname(2), as an address; empty where there is none."""
        path = self.sockname
        return f"unix:{path}" if path and isinstance(path, str) else ""

    @property
    def sockname(self) -> str | bytes | tuple[object, ...]:
        """The name from getsockname(2): a path, an abstract name, or host and port; empty where it is closed."""
        return "" if self.is_closed else self._listening.sock.getsockname()

    # clients

    def accept(self) -> None:
        """Accept at most `MAX_FINAL_ACCEPTS` pending connections, before the socket is closed."""
        for _ in range(MAX_FINAL_ACCEPTS):
            if self.is_closed or not self._accept_one():
                return

    def _on_connect(self) -> None:
        """Called by the event loop when a client has connected."""
        for _ in range(BATCH):
            if (wait := self._accept_rate.wait(asyncio.get_running_loop().time())) > 0.0:
                self._pause(wait * BATCH)
                return
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept one client; return whether another may be pending. Never raises."""
        try:
            sock, _ = self._listening.sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except (OSError, MemoryError) as error:
            return self._not_accepted(error)
        self._count += 1
        try:
            if (refusal := self._refusal(sock)) is None:
                return True
            self._log("refused", f"client {refusal}")
        except OSError as error:  # the client has closed already
            log.debug("%sclient lost before it was served: %s", self._prefix, error)
        except Exception as error:  # noqa: BLE001 -- it must affect this client only
            self._fault(error)
        sock.close()
        return True

    def _refusal(self, sock: socket.socket) -> str | None:
        """Call ``on_accept`` and return None, or return why the client is refused.

        Raises `OSError` where it has closed.
        """
        raise_if_left(sock)
        self._accept_rate.spend()
        if self.on_full is not None and is_reserved(sock.fileno()):
            self.on_full()
            return "refused: the process has almost no descriptors left (RLIMIT_NOFILE)"
        if self.suspended:
            return "refused: QEMU has ended"
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # no reply waits for the last one's ACK (tcp(7))
        peer = peer_of(sock, self._count)
        if self._refuse is not None and (reason := self._refuse(peer)) is not None:
            return f"{peer} refused: {reason}"
        self.on_accept(sock, peer)
        return None

    def _not_accepted(self, error: OSError | MemoryError) -> bool:
        number = getattr(error, "errno", None)
        self.errors[errno.errorcode.get(number or 0, type(error).__name__)] += 1
        if number in _PER_CONNECTION:
            self._accept_rate.spend()
            return True
        self._log(f"error {number}", f"cannot accept: {error}; trying again in {ACCEPT_PAUSE:g} s")
        self._pause(ACCEPT_PAUSE)
        return False

    def _fault(self, error: Exception) -> None:
        self.errors[type(error).__name__] += 1
        self._log("fault", f"client closed, the guard failed: {error!r}", error)

    def _log(self, kind: str, text: str, error: Exception | None = None) -> None:
        if (more := self._rate.admit(kind, asyncio.get_running_loop().time())) is not None:
            log.warning("%s%s%s", self._prefix, text, more, exc_info=error)

    # the event loop

    @property
    def _prefix(self) -> str:
        return f"{self.label} " if self.label else ""

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._listening.sock.fileno(), self._on_connect)

    def _unwatch(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listening.sock.fileno())
        if self._resume is not None:
            self._resume.cancel()

    def _pause(self, seconds: float) -> None:
        self._unwatch()
        if not self.is_closed:
            self._resume = asyncio.get_running_loop().call_later(seconds, self._watch)
