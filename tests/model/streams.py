"""What stands in the place of a socket: bytes go on at once, and a descriptor is a token that tells where it went."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qmpguard.proxy.sockets.protocol import StreamProtocol
    from qmpguard.proxy.sockets.stream import Outbox
    from tests.model.loop import SteppingLoop


class BrokenPromiseError(Exception):
    """The guard did not keep a promise; the text says which one, and how."""


class Token:
    """A descriptor. It belongs to the guard until it is closed or passed on; ``place`` says where it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.place = "guard"

    def fileno(self) -> int:
        return 3

    def close(self) -> None:
        """Close it; a second call does nothing, as with the real one."""
        if self.place == "QEMU":
            raise BrokenPromiseError(f"descriptor {self.name} was closed, and QEMU has it")
        self.place = "closed"

    def pass_on(self) -> None:
        """Go to QEMU."""
        if self.place != "guard":
            raise BrokenPromiseError(f"descriptor {self.name} was passed on, and its place was: {self.place}")
        self.place = "QEMU"


class ModelStream:
    """A stream whose other side takes everything at once; ``on_write`` is called with it.

    ``on_start`` is called when the guard begins to read.
    """

    pending = 0

    def __init__(
        self, loop: SteppingLoop, on_write: Callable[[bytes, Token | None], None], on_close: Callable[[], None]
    ) -> None:
        self.closed = False
        self.reads = False
        self.started = False
        self.protocol: StreamProtocol | None = None
        self.on_start: Callable[[], None] | None = None
        self._loop = loop
        self._on_write = on_write
        self._on_close = on_close

    def start(self, protocol: StreamProtocol) -> None:
        self.protocol = protocol
        self.reads = self.started = True
        if self.on_start is not None:
            self.on_start()

    def wait(self, protocol: StreamProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes, descriptor: Token | None = None) -> None:
        if not self.closed:
            self._on_write(data, descriptor)
        elif descriptor is not None:
            descriptor.close()

    def write_long(self, pieces: Iterator[bytes], size: int, descriptor: Token | None = None) -> None:
        self.write(b"".join(pieces), descriptor)

    def pause(self) -> None:
        self.reads = False

    def resume(self) -> None:
        self.reads = True

    def flush(self) -> None:
        """Everything was taken."""

    def when_sent(self, callback: Callable[[], None]) -> None:
        self.call_soon(callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon(self._call, callback)

    def _call(self, callback: Callable[[], None]) -> None:
        if not self.closed:
            callback()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.protocol = None
            self._on_close()

    # what the other side does

    def receive(self, outbox: Outbox, data: bytes, token: Token | None = None) -> None:
        """Bring bytes, as in one wake-up of the event loop."""
        if self.closed:
            return
        assert self.protocol is not None
        with outbox:
            self.protocol.data_received(data, [] if token is None else [token])  # type: ignore[list-item]
