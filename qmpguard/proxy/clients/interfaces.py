"""What a session calls: the client's socket below it, and the hub above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.proxy.clients.pending import PendingRequest, Requester
    from qmpguard.proxy.closing import CloseReason
    from qmpguard.proxy.sockets.protocol import StreamProtocol
    from qmpguard.record import Peer
    from qmpguard.wire.client_messages import Request


class Wakeups(Protocol):
    """Counts the wake-ups of the event loop, and the bytes that are held: `qmpguard.proxy.sockets.stream.Outbox`."""

    wakeup: int
    grew: Callable[[int], None]


class ClientTransport(Protocol):
    """The client's socket: `qmpguard.proxy.sockets.stream.Stream`, or what a test puts in its place."""

    @property
    def pending(self) -> int:
        """Bytes that the client has not taken yet."""
        ...

    def start(self, protocol: StreamProtocol) -> None:
        """Begin to call `Session.data_received`."""
        ...

    def wait(self, protocol: StreamProtocol) -> None:
        """Call nothing but `Session.connection_lost` before `start`."""
        ...

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        ...

    def pause(self) -> None:
        """Read no more before `resume`."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def flush(self) -> None:
        """Send what is queued as far as the client takes it."""
        ...

    def when_sent(self, callback: Callable[[], None]) -> None:
        """Call back once, when the client has taken everything."""
        ...

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back when every other client has had its turn."""
        ...

    def close(self) -> None:
        """Close it, without a call of `Session.connection_lost`."""
        ...


class Upstream(Protocol):
    """The hub, as a session sees it."""

    @property
    def offered(self) -> frozenset[str]:
        """The capabilities that QEMU's greeting offers."""
        ...

    #: whether QEMU answers, as far as the heartbeat can tell
    is_alive: bool

    @property
    def outbox(self) -> Wakeups:
        """Counts the wake-ups of the event loop, and the bytes that are held."""
        ...

    def on_descriptors(self, count: int) -> None:
        """Called with the number of descriptors that came with a read."""
        ...

    def on_malformed(self) -> None:
        """Called for each message that is no JSON."""
        ...

    def submit(self, session: Requester) -> None:
        """Called when a session has in-band requests to send."""
        ...

    def submit_oob(self, pending: PendingRequest) -> None:
        """Take an out-of-band request, which waits for nothing."""
        ...

    def on_session_closed(
        self, session: Requester, reason: CloseReason, detail: str, unsent: list[PendingRequest]
    ) -> None:
        """Called when a session has closed, with those of its requests that were not sent."""
        ...


class TrafficLog(Protocol):
    """Writes down the requests of clients and their replies. Neither method raises."""

    def on_request(self, vm: str, peer: Peer, request: Request) -> None:
        """Called with each request of a client, before it is judged."""
        ...

    def on_reply(self, vm: str, pending: PendingRequest, reply: bytes) -> None:
        """Called with the reply to each request, also of the guard's own session."""
        ...
