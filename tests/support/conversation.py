"""A session without a socket and a hub without a QEMU: what is written, submitted and told is kept in lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpguard.proxy.clients.session import Session
from qmpguard.record import Peer
from qmpguard.wire.qemu_messages import Greeting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qmpguard.proxy.clients.pending import PendingRequest, Requester
    from qmpguard.proxy.closing import CloseReason
    from qmpguard.proxy.sockets.descriptors import Descriptor

GREETING = Greeting(
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 1, "major": 11}, "package": ""}, "capabilities": ["oob"]}}\r\n'
)
NEGOTIATION = b'{"execute": "qmp_capabilities"}'
WITH_OOB = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'


class Transport:
    """The client's socket. ``pending`` is what the client has not taken."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.pending = 0
        self.reads = False
        self.waits = False
        self.closed = False
        self.soon: list[Callable[[], None]] = []
        self.on_sent: Callable[[], None] | None = None

    def start(self, protocol: object) -> None:
        self.reads = True

    def wait(self, protocol: object) -> None:
        self.waits = True

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def pause(self) -> None:
        self.reads = False

    def resume(self) -> None:
        self.reads = True

    def flush(self) -> None:
        """Nothing is held back."""

    def when_sent(self, callback: Callable[[], None]) -> None:
        self.on_sent = callback

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def close(self) -> None:
        self.closed = True


class Outbox:
    """Counts the wake-ups, and the bytes that were read."""

    def __init__(self) -> None:
        self.wakeup = 0
        self.sizes: list[int] = []
        self.grew = self.sizes.append


class Hub:
    """Takes every request that has its turn, in the order in which a session gives them."""

    def __init__(self) -> None:
        self.offered = GREETING.offered
        self.is_alive = True
        self.outbox = Outbox()
        self.sent: list[PendingRequest] = []
        self.malformed = self.descriptors = 0
        self.closed: list[tuple[CloseReason, str, list[PendingRequest]]] = []

    def on_descriptors(self, count: int) -> None:
        self.descriptors += count

    def on_malformed(self) -> None:
        self.malformed += 1

    def submit(self, session: Requester) -> None:
        while session.todo and session.holder is None:
            self._send(session.todo.popleft())

    def submit_oob(self, pending: PendingRequest) -> None:
        self._send(pending)

    def _send(self, pending: PendingRequest) -> None:
        pending.sent = True
        self.sent.append(pending)

    def on_session_closed(
        self, session: Requester, reason: CloseReason, detail: str, unsent: list[PendingRequest]
    ) -> None:
        self.closed.append((reason, detail, unsent))

    @property
    def commands(self) -> list[str]:
        """The commands of the requests, in order."""
        return [pending.request.command for pending in self.sent]


class Conversation:
    """A session between the two."""

    def __init__(self, negotiation: bytes | None = NEGOTIATION, **options: Any) -> None:
        self.hub, self.transport = Hub(), Transport()
        self.session = Session(self.hub, self.transport, Peer(1), **options)
        if negotiation is not None:
            self.session.greet(GREETING)
            self.receive(negotiation)
            self.transport.written.clear()

    def receive(self, data: bytes, descriptors: Iterable[Descriptor] = ()) -> None:
        """Give bytes to the session in a wake-up of their own, and the turns that it asks for."""
        self.hub.outbox.wakeup += 1
        self.session.data_received(data, list(descriptors))
        self.take_turns()

    def take_turns(self) -> None:
        """Call back until nothing more was asked for."""
        while self.transport.soon:
            self.hub.outbox.wakeup += 1
            self.transport.soon.pop(0)()

    def answer(self, index: int, text: bytes = b"{}") -> None:
        """Answer a request that was sent, by its place among them."""
        pending = self.hub.sent[index]
        identity = b"" if pending.id is None else b', "id": ' + pending.id
        self.session.settle(pending, b'{"return": ' + text + identity + b"}\r\n")
        self.take_turns()

    @property
    def replies(self) -> list[bytes]:
        """The messages that were written, without their line ends."""
        return [line.rstrip() for line in self.transport.written]
