"""What one client has asked, and is still owed."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from tests.labs.hostile.ids import Id, echo_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: errors of QEMU for what is no request; they have no id
_JUNK = re.compile(
    rb'\{"error": \{"class": "GenericError", "desc": "'
    rb"(JSON (parse error|token|nesting)|QMP input (lacks|must be)|Invalid JSON)"
)
_EVENT = re.compile(rb'\{("timestamp": \{[^}]*\}, )?"event": "')


class Fault(Exception):  # noqa: N818 -- what must not happen
    """A reply that is missing, out of place, one too many, or nobody's."""


class Owed(NamedTuple):
    """One request: what it was, and its id."""

    what: str
    identity: Id


class Account:
    """Requests that have no reply yet. ``junk``: how many errors without an id may still come, at most."""

    def __init__(self) -> None:
        self._in_band: deque[Owed] = deque()
        self._out_of_band: list[Owed] = []
        self.junk = 0
        self.replies = 0

    @property
    def owes(self) -> int:
        """Requests without a reply."""
        return len(self._in_band) + len(self._out_of_band)

    def __iter__(self) -> Iterator[Owed]:
        yield from self._in_band
        yield from self._out_of_band

    def owe(self, what: str, identity: Id, *, oob: bool = False) -> None:
        (self._out_of_band if oob else self._in_band).append(Owed(what, identity))

    def take(self, line: bytes) -> None:
        """Take a line; raises `Fault` where it is not what is owed."""
        if _EVENT.match(line):
            return
        self.replies += 1
        echo = echo_of(line)
        if echo is None and self.junk and _JUNK.match(line):
            self.junk -= 1
        elif self._in_band and self._in_band[0].identity.is_echo(echo):
            self._in_band.popleft()
        elif (found := next((o for o in self._out_of_band if o.identity.is_echo(echo)), None)) is not None:
            self._out_of_band.remove(found)
        else:
            raise Fault(f"{line[:200]!r} came, where {self._next()} was to be answered")

    def _next(self) -> str:
        return "nothing" if not self.owes else f"{next(iter(self)).what} (of {self.owes})"
