"""The socket that clients come in by: who may come in, how many in a turn, and what an error of accept means.

* Nothing raises out of the event loop's callback. An error of one connection, or of the owner's ``accepted``, closes
  that connection only. Any other error of accept(2) is taken for a shortage that passes: accepting pauses.
* A storm of connections costs the others no more than `BATCH` of them in a turn, and no more than
  `AcceptRate` in a second.
* A client never takes one of the last descriptors: they are for links, files and the guard's own sockets.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qmpguard.address import Address, FdAddress
from qmpguard.errors import UnavailableError
from qmpguard.proxy.listening.accept_rate import AcceptRate
from qmpguard.proxy.listening.peer import peer_of
from qmpguard.proxy.listening.socket_file import FileId, file_id, give, open_listening
from qmpguard.proxy.sockets.descriptors import is_reserved
from qmpguard.rate import LogRate

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.record import Peer

log = logging.getLogger(__name__)

#: Clients accepted in one wake-up, before everybody else gets their turn. A client that comes in costs 0.1 ms, so the
#: others wait a millisecond more; with 64 they waited 8.
BATCH = 8
#: clients accepted at most when a socket is about to be closed: who has connected before is not lost
LAST = 64
#: seconds without accepting after an error that is not one connection's: a shortage of descriptors or memory
PAUSE = 0.5
#: lines of log of one kind and one socket in a minute: each pause would make one
LINES, MINUTE = 2, 60.0
#: errors of one connection that has failed before it was accepted (accept(2), "Error handling"); the next may be good
_OF_ONE = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENONET),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    }
)


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

    ``label`` begins each line of log about it (``vm=NAME``). ``admits`` returns why a client may not come in, before
    anything is made for it. ``on_full`` is called when a client was closed because the descriptor table is nearly full;
    None: the socket is the guard's own, and its clients may use the reserved part. A ``place`` gives the path back when
    the listener closes, and decides who may connect. ``errors`` counts what accept(2) and ``accepted`` have raised.
    While it is ``suspended`` nobody can connect.
    """

    def __init__(
        self,
        address: Address,
        accepted: Callable[[socket.socket, Peer], None],
        *,
        mode: int = 0o600,
        group: int | None = None,
        place: Place | None = None,
        label: str = "",
        admits: Callable[[Peer], str | None] | None = None,
        on_full: Callable[[], None] | None = None,
    ) -> None:
        """Open the socket; raises `UnavailableError` when it cannot be had."""
        self.accepted = accepted
        self.label = label
        self.on_full = on_full
        self.place = place
        self.errors: Counter[str] = Counter()
        self.suspended = False
        self._admits = admits
        self._address = address
        self._permissions = (mode, group)
        self._count = 0
        self._pace = AcceptRate()
        self._rate = LogRate(LINES, MINUTE)
        self._lost: tuple[FileId | None, str] | None = None  # what was found at our path, and what was said of it
        self._resume: asyncio.TimerHandle | None = None
        self._listening = open_listening(address, *self._permissions)
        self._watch()

    # the socket and its file

    def close(self) -> None:
        """Stop listening and remove the socket."""
        if self.is_closed and not self.suspended:
            return
        if self.place is not None:
            self.place.leave()
        if not self.is_closed:
            self._unwatch()
            self._listening.close()
        self.suspended = False

    def suspend(self) -> None:
        """Let nobody connect until `resume`, and remove the socket's file, as when QEMU has ended.

        A socket that was passed to the process stays open: a client that connects there is closed at once.
        """
        if self.suspended or self.is_closed:
            return
        self.suspended = True
        if not isinstance(self._address, FdAddress):
            self._unwatch()
            self._listening.close()

    def resume(self) -> None:
        """Let clients connect again. Raises `UnavailableError`, and then it is still suspended.

        With a ``place`` it is `Place.keep` that listens anew, since the path may be another's by now.
        """
        if self.suspended and self.is_closed and self.place is None:
            self._listening = open_listening(self._address, *self._permissions)
            self._watch()
        self.suspended = False

    @property
    def is_closed(self) -> bool:
        """Say whether nobody can connect any more."""
        return self._listening.sock.fileno() < 0

    @property
    def still_ours(self) -> bool:
        """Say whether the path still leads to our socket: another guard may have taken it over."""
        return self._listening.has_path

    def reopen(self) -> None:
        """Listen at the same address anew, since its path leads elsewhere.

        Raises `UnavailableError`, and then the old socket is still open.
        """
        fresh = open_listening(self._address, *self._permissions)
        if not self.is_closed:
            self.accept()  # who has connected to the old one
            self._unwatch()
            self._listening.close()
        self._listening = fresh
        self.suspended = False
        self._watch()

    def restore(self) -> None:
        """Listen anew if the socket's file was removed, or replaced by a socket that nobody listens at.

        What has taken its place otherwise is left alone, and looked at once only: connecting to it could disturb it.
        """
        if self.is_closed or self._listening.path is None or self.place is not None or self.still_ours:
            self._lost = None
            return
        found = file_id(self._listening.path)
        if found is not None and self._lost is not None and self._lost[0] == found:
            return
        try:
            self.reopen()
        except UnavailableError as error:
            self._say_lost(found, str(error))
            return
        self._lost = None
        log.warning("%ssocket=%s was removed; listening there anew", self._prefix, self._address)

    def _say_lost(self, found: FileId | None, why: str) -> None:
        if self._lost is None or self._lost[1] != why:
            log.error("%ssocket=%s is gone, nobody can connect: %s", self._prefix, self._address, why)
        self._lost = (found, why)

    def permit(self, mode: int, group: int | None) -> tuple[int, int | None]:
        """Change who may connect to a unix socket, and return what held before. Raises `UnavailableError`."""
        if self.place is not None:
            return self._permissions
        before, self._permissions = self._permissions, (mode, group)
        path = self._listening.path
        if path and before != self._permissions and self.still_ours:
            try:
                give(path, group)
                Path(path).chmod(mode)
            except OSError as error:
                self._permissions = before
                raise UnavailableError(f"cannot change {path}: {error.strerror}") from error
        return before

    @property
    def name(self) -> str:
        """The path that the kernel knows, written as an address; empty where there is none."""
        path = "" if self.is_closed else self._listening.sock.getsockname()
        return f"unix:{path}" if path and isinstance(path, str) else ""

    # clients

    def accept(self) -> None:
        """Accept who has connected already, at most `LAST`, whatever their pace: the socket is about to close."""
        for _ in range(LAST):
            if self.is_closed or not self._accept_one():
                return

    def _on_connect(self) -> None:
        """Called when somebody has connected."""
        for _ in range(BATCH):
            if (wait := self._pace.wait(asyncio.get_running_loop().time())) > 0.0:
                self._pause(wait * BATCH)
                return
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept one client, and return whether there may be another. Never raises."""
        try:
            sock, _ = self._listening.sock.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except (OSError, MemoryError) as error:
            return self._not_accepted(error)
        self._pace.spend()
        self._count += 1
        try:
            if (refusal := self._refusal(sock)) is None:
                return True
            self._say("refused", f"client {refusal}")
        except OSError as error:  # it has left already
            log.debug("%sclient lost before it was served: %s", self._prefix, error)
        except Exception as error:  # noqa: BLE001 -- whatever it is: it is this client's
            self._fault(error)
        sock.close()
        return True

    def _refusal(self, sock: socket.socket) -> str | None:
        """Hand a client over and return None, or return why it may not come in. Raises `OSError` where it has left."""
        if self.on_full is not None and is_reserved(sock.fileno()):
            self.on_full()
            return "refused: the process has almost no descriptors left (RLIMIT_NOFILE)"
        if self.suspended:
            return "refused: QEMU has ended"
        if sock.family != socket.AF_UNIX:
            # a small reply must not wait for the acknowledgement of the one before (tcp(7))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = peer_of(sock, self._count)
        if self._admits is not None and (reason := self._admits(peer)) is not None:
            return f"{peer} refused: {reason}"
        self.accepted(sock, peer)
        return None

    def _not_accepted(self, error: OSError | MemoryError) -> bool:
        number = getattr(error, "errno", None)
        self.errors[errno.errorcode.get(number or 0, type(error).__name__)] += 1
        if number in _OF_ONE:
            self._pace.spend()
            return True
        self._say(f"error {number}", f"cannot accept: {error}; trying again in {PAUSE:g} s")
        self._pause(PAUSE)
        return False

    def _fault(self, error: Exception) -> None:
        self.errors[type(error).__name__] += 1
        self._say("fault", f"client closed, the guard failed: {error!r}", error)

    def _say(self, kind: str, text: str, error: Exception | None = None) -> None:
        if (more := self._rate.admit(kind, asyncio.get_running_loop().time())) is not None:
            log.warning("%s%s%s", self._prefix, text, more, exc_info=error)

    # when to look

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
