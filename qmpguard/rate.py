"""A rate limit for log lines: a number of lines for each key in an interval, then a count of the suppressed ones.

It has neither a clock nor a log of its own. ::

    if (more := rate.admit(peer.uid, loop.time())) is not None:
        log.warning("console client=%s refused%s", peer, more)
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

#: lines for one key in one interval
MAX_LINES = 10
#: seconds of an interval; ten lines in each are some megabyte in a day and a half for one key
INTERVAL = 10.0
#: keys that are remembered; the least recently used is dropped first, since a client may choose a key
MAX_KEYS = 1024


@dataclass(slots=True)
class _Window:
    begun: float
    lines: int = 0
    left_out: int = 0


class LogRate:
    """Counts lines by key. ``left_out`` is the total of suppressed lines, for a metric."""

    def __init__(self, lines: int = MAX_LINES, interval: float = INTERVAL, keys: int = MAX_KEYS) -> None:
        self.left_out = 0
        self._lines = lines
        self._interval = interval
        self._keys = keys
        self._windows: OrderedDict[Hashable, _Window] = OrderedDict()

    def admit(self, key: Hashable, now: float) -> str | None:
        """Return None when a line is suppressed, else a text to append to it.

        The text is empty, or `` (N like it left out)`` when lines of this key were suppressed since the last one.
        ``now`` is in seconds of a monotonic clock.
        """
        window = self._window(key, now)
        if window.lines >= self._lines:
            window.left_out += 1
            self.left_out += 1
            return None
        window.lines += 1
        more, window.left_out = window.left_out, 0
        return f" ({more} like it left out)" if more else ""

    def silent(self, now: float) -> Iterator[tuple[Hashable, int]]:
        """Return each key with suppressed lines whose interval is over, with their number, once.

        Call it from time to time and at the end, to log the number also where no further line comes.
        """
        over = [key for key, window in self._windows.items() if window.left_out and self._is_over(window, now)]
        return iter([(key, self._windows.pop(key).left_out) for key in over])

    def _window(self, key: Hashable, now: float) -> _Window:
        window = self._windows.setdefault(key, _Window(now))
        self._windows.move_to_end(key)
        if self._is_over(window, now):
            window.begun, window.lines = now, 0
        if len(self._windows) > self._keys:
            self._windows.popitem(last=False)
        return window

    def _is_over(self, window: _Window, now: float) -> bool:
        return now - window.begun >= self._interval
