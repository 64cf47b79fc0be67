"""What a soak has seen: counts and faults of all its workers, and the workers themselves."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.labs.soak.worker import Hand


class Tally:
    """Counts, and what must not be. ``hands``: the worker of each simulated VM, and that of the clients, ``load``."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.hands: dict[str, Hand] = {}
        self._replies = 0

    def take(self, message: dict[str, Any]) -> None:
        """Take a message of a worker."""
        self.counts.update(message.get("counts", {}))
        if "fault" in message:
            self.faults.append(message["fault"])

    def new_replies(self) -> int:
        """Return how many replies have come since the last call."""
        before, self._replies = self._replies, self.counts["replies"]
        return self._replies - before
