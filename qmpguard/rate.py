"""A bound on log lines: at most so many for one key in an interval, then a count of those that were left out.

Pure: the clock is the caller's, and so is the log. ::

    if (more := rate.admit(peer.uid, loop.time())) is not None:
        log.warning("console client=%s refused%s", peer, more)
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

#: lines for one key in one interval: enough to see what happens, too few to fill a disk
MAX_LINES = 10
#: seconds of an interval; ten lines in it are one megabyte a day and a half for one key
INTERVAL = 10.0
#: keys that are remembered, the least recently used is forgotten first; a key may be a client's to choose
MAX_KEYS = 1024


@dataclass(slots=True)
class _Window:
    begun: float
    lines: int = 0
    left_out: int = 0


class LogRate:
    """Counts lines by key. ``left_out`` is how many were left out in all, for a metric."""

    def __init__(self, lines: int = MAX_LINES, interval: float = INTERVAL, keys: int = MAX_KEYS) -> None:
        self.left_out = 0
        self._lines = lines
        self._interval = interval
        self._keys = keys
        self._windows: OrderedDict[Hashable, _Window] = OrderedDict()

    def admit(self, key: Hashable, now: float) -> str | None:
        """Return None when a line is to be left out, else what to write behind it.

        That is the empty string, or `` (N like it left out)`` when lines for this key were left out since the last one.
        ``now`` is in seconds, of any clock that does not go backwards.
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
        """Return the keys whose interval is over with lines left out and no line since, with their number, once.

        For who wants the number in the log also when no further line comes: call it from time to time and at the end.
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
