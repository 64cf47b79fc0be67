"""The rate limit of accepted connections of one socket: a token bucket. It has no clock of its own."""

from __future__ import annotations

#: clients that may connect at once: as many as a VM takes by default (Limits.max_clients)
BURST = 1024
#: Clients a second in the long run. A client that connects and disconnects costs the guard 0.3 ms and two lines of log:
#: at this rate a storm of them takes a sixteenth of the process. A tool connects a few times a second.
RATE = 200.0


class AcceptRate:
    """A token for each client; ``RATE`` of them are added each second, up to ``BURST``."""

    __slots__ = ("_burst", "_rate", "_since", "_tokens")

    def __init__(self, burst: int = BURST, rate: float = RATE) -> None:
        self._burst = float(burst)
        self._rate = rate
        self._tokens = float(burst)
        self._since = 0.0

    def wait(self, now: float) -> float:
        """Return the seconds until the next client may be accepted; 0.0: now."""
        self._tokens = min(self._burst, self._tokens + (now - self._since) * self._rate)
        self._since = now
        return 0.0 if self._tokens >= 1.0 else (1.0 - self._tokens) / self._rate

    def spend(self) -> None:
        """Count an accepted client."""
        self._tokens -= 1.0
