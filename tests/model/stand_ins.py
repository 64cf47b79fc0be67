"""What the model puts in the places of sockets, the clock, and sets (which have no order)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from qmpguard.proxy.sockets.stream import Outbox


class OrderedSet(set[Any]):
    """A set in the order of insertion, so that an order of events is the same when it is played again."""

    def __init__(self) -> None:
        super().__init__()
        self._order: dict[Any, None] = {}

    def add(self, each: Any) -> None:
        super().add(each)
        self._order[each] = None

    def discard(self, each: Any) -> None:
        super().discard(each)
        self._order.pop(each, None)

    def __iter__(self) -> Any:
        return iter(tuple(self._order))


def stream_of(sock: object, outbox: Outbox, **_: object) -> object:
    """In the place of `Stream`: what is given for a socket is one already."""
    return sock


def substituted() -> list[AbstractContextManager[object]]:
    """Return the patches that put streams and a clock that stands in their places."""
    return [
        patch("qmpguard.proxy.clients.registry.Stream", stream_of),
        patch("qmpguard.proxy.serving.Stream", stream_of),
        patch("time.time", lambda: 0.0),
        patch("time.monotonic", lambda: 0.0),
    ]
