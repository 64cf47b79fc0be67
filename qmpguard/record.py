"""What has happened, on record: decisions, drift, the link's changes. Pure values, a bounded ring, and who listens.

Everything that tells of a VM's past reads from here: the audit, the admin interface, the stream of events. The clock
is the caller's.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from heapq import merge
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from qmpguard.policy.drift import Drift
from qmpguard.policy.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: entries that a VM's journal keeps, of QEMU's events and of everything else; a decision is some hundred bytes
MAX_ENTRIES = 1000
#: characters of a command's name that are kept; QEMU's longest has 35
MAX_COMMAND = 200
#: characters of an event's data that are kept; QEMU's own events have some hundred
MAX_DATA = 4096


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a session: a number of ours, and for a unix socket its process, user and groups."""

    number: int
    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return it as the log names it."""
        return f"{self.number}" if self.pid is None else f"{self.number}/pid{self.pid}/uid{self.uid}"


class Outcome(Enum):
    """What became of a judged request."""

    ALLOWED = "allowed"
    WARNED = "warned"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on record. ``ref`` stands in the client's error text; ``qemu_check``: would QEMU itself have refused.

    ``took`` is in seconds, from the request's arrival to the verdict. ``hmp`` is the line of a
    `human-monitor-command` without what may be a secret, empty for every other command.
    """

    ref: str
    peer: Peer
    command: str
    verdict: Verdict
    qemu: str
    qemu_check: str = "unknown"
    took: float = 0.0
    hmp: str = ""

    def __post_init__(self) -> None:
        """Cut a command's name that no command has: a client may send one of megabytes."""
        object.__setattr__(self, "command", self.command[:MAX_COMMAND])

    @property
    def outcome(self) -> Outcome:
        """What became of the request."""
        if self.verdict.refusal is not None:
            return Outcome.REFUSED
        return Outcome.WARNED if self.verdict.findings else Outcome.ALLOWED

    @property
    def text(self) -> str:
        """The sentence that the client got; empty where nothing was refused."""
        refusal = self.verdict.refusal
        return "" if refusal is None else refusal.text(self.ref)


@dataclass(frozen=True, slots=True)
class LinkChange:
    """The link to QEMU came up (``up``, with QEMU's version) or went down (with the reason)."""

    up: bool
    what: str

    def __post_init__(self) -> None:
        """Cut what a QEMU says of itself in megabytes."""
        object.__setattr__(self, "what", self.what[:MAX_DATA])


@dataclass(frozen=True, slots=True)
class Event:
    """An event of QEMU: its name and its data as JSON text; longer data than any of QEMU's own is left out."""

    name: str
    data: str

    def __post_init__(self) -> None:
        """Leave out what is too long to be kept a thousand times."""
        object.__setattr__(self, "name", self.name[:MAX_COMMAND])
        if len(self.data) > MAX_DATA:
            object.__setattr__(self, "data", "{}")


@dataclass(frozen=True, slots=True)
class Override:
    """A rule, or all of them (None), was set to warn until a time, in seconds since the epoch; or that is over."""

    HAS_FIELDS: ClassVar[bool] = True  # its text is fields of the log

    begun: bool
    rule: str | None
    until: float
    reason: str
    peer: Peer

    def __str__(self) -> str:
        """Return it as the log tells it."""
        until = datetime.fromtimestamp(self.until, UTC).isoformat(timespec="seconds")
        return (
            f"override={'begun' if self.begun else 'over'} rule={self.rule or 'all'} until={until} "
            f"by=pid{self.peer.pid}/uid{self.peer.uid} reason={self.reason!r}"
        )


Happening: TypeAlias = Decision | Drift | LinkChange | Event | Override


@dataclass(frozen=True, slots=True)
class Entry:
    """One happening: its place among all of this process, counted from 1, and when, in seconds since the epoch."""

    number: int
    time: float
    vm: str
    what: Happening


class Run:
    """One life of the process: its token, and the numbers of its happenings, whichever VM they are of."""

    def __init__(self, token: str | None = None) -> None:
        """Begin; the token tells this process's references from those of another."""
        self.token = token or os.urandom(3).hex()
        self.last = 0

    def ref(self, number: int) -> str:
        """Return how a happening is called: unique among processes, short enough to be read out."""
        return f"{self.token}-{number}"


class Journal:
    """The last happenings of one VM, and those who are told of each as it happens. A listener must not raise.

    Events have a ring of their own: a QEMU that sends many of them does not push the decisions out.
    """

    def __init__(self, vm: str, run: Run, size: int = MAX_ENTRIES) -> None:
        self.vm = vm
        self.run = run
        self._events: deque[Entry] = deque(maxlen=size)
        self._others: deque[Entry] = deque(maxlen=size)
        self._listeners: list[Callable[[Entry], None]] = []

    @property
    def next_ref(self) -> str:
        """The reference of the next happening."""
        return self.run.ref(self.run.last + 1)

    def add(self, time: float, what: Happening) -> Entry:
        """Put a happening on record and tell the listeners."""
        self.run.last += 1
        entry = Entry(self.run.last, time, self.vm, what)
        (self._events if isinstance(what, Event) else self._others).append(entry)
        for listener in tuple(self._listeners):
            listener(entry)
        return entry

    def since(self, number: int) -> Iterator[Entry]:
        """Return the entries after a number, oldest first; those that have left their ring are missing."""
        entries = merge(tuple(self._events), tuple(self._others), key=_number)
        return (entry for entry in entries if entry.number > number)

    def after(self, number: int, *, events: bool) -> Entry | None:
        """Return the first entry after a number that is kept, of QEMU's events or of all else; None: there is none."""
        ring = self._events if events else self._others
        place = bisect_right(ring, number, key=_number)
        return ring[place] if place < len(ring) else None

    def before(self, number: int, *, events: bool) -> Entry | None:
        """Return the last entry before a number, likewise."""
        ring = self._events if events else self._others
        place = bisect_left(ring, number, key=_number)
        return ring[place - 1] if place else None

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Tell somebody of every entry from now on; call what is returned to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


def _number(entry: Entry) -> int:
    return entry.number
