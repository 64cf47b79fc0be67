"""The memory limit for all clients of a process together: unread replies, incomplete and unanswered requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qmpguard.proxy.closing import CloseReason

if TYPE_CHECKING:
    from collections.abc import Collection

#: bytes: sixteen times what one client may leave unread
MAX_HELD = 256 << 20
#: the budget is checked each time this part of it was received or queued; so a check costs next to nothing
CHECKS = 32


class Holder(Protocol):
    """An object that holds bytes for a client: a session."""

    @property
    def weight(self) -> int:
        """The number of bytes."""
        ...

    def close(self, reason: CloseReason) -> None:
        """Close the session and free its bytes."""
        ...


class Budget:
    """A limit in bytes for all holders together. When it is exceeded, those that hold the most are closed."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self._step = limit // CHECKS
        self._limit = limit - self._step
        self._uncounted = 0
        self._holders: list[Collection[Holder]] = []

    def watch(self, holders: Collection[Holder]) -> None:
        """Add a collection of holders. It may change later."""
        self._holders.append(holders)

    def forget(self, holders: Collection[Holder]) -> None:
        """Remove a collection of holders."""
        self._holders = [others for others in self._holders if others is not holders]

    def grew(self, size: int) -> None:
        """Called with the size of bytes that may be held from now on."""
        self._uncounted += size
        if self._uncounted >= self._step:
            self._uncounted = 0
            self._check()

    def _check(self) -> None:
        held = [(holder.weight, holder) for holders in self._holders for holder in holders]
        total = sum(size for size, _ in held)
        if total <= self._limit:
            return
        for size, holder in sorted(held, key=lambda entry: -entry[0]):
            if total <= self._limit:
                return
            holder.close(CloseReason.TOO_MUCH_HELD)
            total -= size
