"""What a stream calls, named as in `asyncio.Protocol`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from qmpguard.proxy.closing import CloseReason
    from qmpguard.proxy.sockets.descriptors import Descriptor


class StreamProtocol(Protocol):
    """The owner of a stream."""

    def data_received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Called with bytes and the descriptors that came with them, which the protocol closes or passes on."""
        ...

    def eof_received(self) -> None:
        """Called when the other side has sent its last byte; it may still read."""
        ...

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """Called when the stream is closed, but not by the protocol. ``detail``: the system's error; may be empty."""
        ...
