"""What all clients of a process may hold together: unread replies, unfinished and unanswered requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qmpguard.proxy.closing import CloseReason

if TYPE_CHECKING:
    from collections.abc import Collection

#: bytes: sixteen times what one client may leave unread
MAX_HELD = 256 << 20
#: the part of it that is taken or queued between two reckonings: they need not be exact, but cost next to nothing
PARTS = 32


class Holder(Protocol):
    """One who holds bytes for a client."""

    @property
    def weight(self) -> int:
        """The bytes."""
        ...

    @property
    def privileged(self) -> bool:
        """Whether it is the guard's own, which is never closed."""
        ...

    def close(self, reason: CloseReason) -> None:
        """Hold nothing any more."""
        ...


class Budget:
    """A limit in bytes for all holders together. Where they exceed it, those that hold the most are closed."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self._step = limit // PARTS
        self._limit = limit - self._step
        self._grown = 0
        self._holders: list[Collection[Holder]] = []

    def watch(self, holders: Collection[Holder]) -> None:
        """Watch a collection of holders, as it is and will be."""
        self._holders.append(holders)

    def forget(self, holders: Collection[Holder]) -> None:
        """Watch a collection no more."""
        self._holders = [others for others in self._holders if others is not holders]

    def grew(self, size: int) -> None:
        """Called with the size of bytes that may be held from now on."""
        self._grown += size
        if self._grown >= self._step:
            self._grown = 0
            self._reckon()

    def _reckon(self) -> None:
        held = [(holder.weight, holder) for holders in self._holders for holder in holders]
        total = sum(size for size, _ in held)
        if total <= self._limit:
            return
        for size, holder in sorted(held, key=lambda entry: -entry[0]):
            if total <= self._limit:
                return
            if not holder.privileged:
                holder.close(CloseReason.TOO_MUCH_HELD)
                total -= size
