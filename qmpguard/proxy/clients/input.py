"""One client's bytes made into requests, and the descriptor that its next `getfd` or `add-fd` takes.

Two things are under way in an input, and each is in one of these states:

    the message     none begun; begun, in `Framer`; complete, while its long id is being encoded (``_long``)
    the descriptor  none; kept until a request takes it (``_descriptor``)

Invariants:

* Messages come out whole and in the order of their bytes, as QEMU frames them (qobject/json-streamer.c:
  json_message_process_token), however the bytes were cut. Bytes that are no message come out as `Malformed`, with
  QEMU's words: bad input is a result, never an exception.
* One call of `next` returns one message as one value, or works for some milliseconds and returns None. ``busy`` says
  whether another call finds something, so a long message delays other clients by one such step at most.
* QEMU keeps the descriptors of the last message that brought any, whatever else is sent, until a command takes the
  first of them and closes the rest (chardev/char-socket.c: tcp_chr_recv, tcp_get_msgfds; monitor/fds.c:
  qmp_getfd, monitor_fdset_add_fd). So one descriptor is kept for a client, and the rest are closed at once.
* Before the negotiation is over no request takes a descriptor: QEMU answers them without a look at the command.
* Every descriptor has one owner: the input, then the request that has taken it. `drop_descriptor` closes the one that
  is left when the client goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from qmpguard.proxy.clients.fd_names import takes_descriptor
from qmpguard.proxy.clients.pending import LONG
from qmpguard.proxy.sockets.descriptors import close_all
from qmpguard.wire.client_messages import BadRequest, Echo, Request, read_request
from qmpguard.wire.framing import MAX_REQUEST, Framer, Malformed

if TYPE_CHECKING:
    from qmpguard.proxy.sockets.descriptors import Descriptor

Incoming: TypeAlias = Request | BadRequest | Malformed


class Received(NamedTuple):
    """One message of a client. ``more``: there are bytes behind it that were not looked at yet.

    ``size`` is the message in memory, in bytes. The receiver of this owns ``descriptor``.
    """

    message: Incoming
    size: int
    descriptor: Descriptor | None
    more: bool


class Input:
    """Bytes and descriptors in, requests out. ``max_size`` is in bytes, of one message."""

    def __init__(self, max_size: int = MAX_REQUEST) -> None:
        self._max_size = max_size
        self._framer = Framer(max_size=max_size)
        self._long: Echo | None = None  # of a message whose id is being encoded in pieces
        self._descriptor: Descriptor | None = None  # that no request has taken yet
        self.oob = False  # whether requests may be out-of-band
        self._negotiated = False

    def follow(self, *, skips: bool) -> None:
        """Read as the QEMU that has greeted. ``skips``: see `Framer`. To be called before `feed`."""
        self._framer = Framer(max_size=self._max_size, skips=skips)

    def negotiated(self, *, oob: bool) -> None:
        """Called when the client has negotiated: from now on requests take descriptors, and may be out-of-band."""
        self._negotiated, self.oob = True, oob

    def feed(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take bytes, and descriptors that came with them."""
        if descriptors:
            self.drop_descriptor()
            self._descriptor = descriptors.pop(0)
            close_all(descriptors)
        self._framer.feed(data)

    @property
    def busy(self) -> bool:
        """Whether `next` has something left to look at."""
        return self._framer.busy or self._long is not None

    @property
    def held(self) -> int:
        """Bytes in memory: those not looked at yet, and what the unfinished message has become."""
        return self._framer.held + (self._framer.size if self._long is not None else 0)

    def next(self) -> Received | None:
        """Return the next message. None: it needs more bytes, or, if `busy`, another call after other clients' turn.

        A call works for some milliseconds at most. Never raises.
        """
        if self._long is not None:
            return self._next_of_long(self._long)
        framer = self._framer
        item = framer.pull()
        if item is None:
            return None
        if isinstance(item, Malformed):
            return Received(item, 0, None, framer.busy)
        if framer.size > LONG:
            self._long = Echo(item.value)
            return None
        more = framer.busy
        request = read_request(item.value, oob=self.oob)
        descriptor = None if self._descriptor is None else self._taken_by(request)
        return Received(request, framer.size, descriptor, more)

    def _next_of_long(self, echo: Echo) -> Received | None:
        if not echo.is_made():
            return None
        self._long = None
        request = read_request(echo.value, oob=self.oob, identity=echo.text)
        return Received(request, self._framer.size, self._taken_by(request), self._framer.busy)

    def _taken_by(self, request: Request | BadRequest) -> Descriptor | None:
        """Return the descriptor that QEMU would take for a request; None where it takes none."""
        if not (self._negotiated and isinstance(request, Request) and takes_descriptor(request)):
            return None
        descriptor, self._descriptor = self._descriptor, None
        return descriptor

    def drop_descriptor(self) -> None:
        """Close the descriptor that no request has taken."""
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None
