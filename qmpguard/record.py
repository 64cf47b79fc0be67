"""The record of each VM: decisions, drift, changes of the link, events and overrides, in bounded rings with listeners.

The audit, the admin interface and the event streams read from here. It has no clock of its own.
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

#: entries of each ring of a VM's journal; a decision has some hundred bytes
MAX_ENTRIES = 1000
#: characters of a command's name; QEMU's longest has 35
MAX_COMMAND = 200
#: characters of an event's data; QEMU's own events have some hundred
MAX_DATA = 4096


@dataclass(frozen=True, slots=True)
class Peer:
    """The peer of a session: its number, and for a unix socket its process, user and groups."""

    number: int
    pid: int | None = None
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Return the peer's text in the log."""
        return f"{self.number}" if self.pid is None else f"{self.number}/pid{self.pid}/uid{self.uid}"


class Outcome(Enum):
    """The outcome of a judged request."""

    ALLOWED = "allowed"
    WARNED = "warned"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on record. ``ref`` is in the client's error text. ``qemu_check``: whether QEMU itself would refuse.

    ``took`` is in seconds, from the request's arrival to the verdict. ``hmp`` is the line of a
    `human-monitor-command` without what may be a secret, empty for every other command.
    """

    ref: str
    peer: Peer
    command: str
    verdict: Verdict
    qemu: str  # its version
    qemu_check: str = "unknown"
    took: float = 0.0
    hmp: str = ""

    def __post_init__(self) -> None:
        """Cut the command's name: a client may send one of megabytes."""
        object.__setattr__(self, "command", self.command[:MAX_COMMAND])

    @property
    def outcome(self) -> Outcome:
        """The outcome of the request."""
        if self.verdict.refusal is not None:
            return Outcome.REFUSED
        return Outcome.WARNED if self.verdict.findings else Outcome.ALLOWED

    @property
    def text(self) -> str:
        """The error text for the client; empty where the request was not refused."""
        refusal = self.verdict.refusal
        return "" if refusal is None else refusal.text(self.ref)


@dataclass(frozen=True, slots=True)
class LinkChange:
    """The link to QEMU came up (``up``, with QEMU's version) or went down (with the reason)."""

    up: bool
    what: str

    def __post_init__(self) -> None:
        """Cut the text: it may hold a text of QEMU."""
        object.__setattr__(self, "what", self.what[:MAX_DATA])


@dataclass(frozen=True, slots=True)
class Event:
    """An event of QEMU: its name and its data as JSON text. Data longer than `MAX_DATA` is left out."""

    name: str
    data: str

    def __post_init__(self) -> None:
        """Cut a long name, and leave out long data."""
        object.__setattr__(self, "name", self.name[:MAX_COMMAND])
        if len(self.data) > MAX_DATA:
            object.__setattr__(self, "data", "{}")


@dataclass(frozen=True, slots=True)
class Override:
    """The begin or the end of an override: a rule, None: all rules, warns until a time in seconds since the epoch."""

    HAS_FIELDS: ClassVar[bool] = True  # its text is fields of the log

    begun: bool
    rule: str | None
    until: float
    reason: str
    peer: Peer

    def __str__(self) -> str:
        """Return the override as fields of the log."""
        until = datetime.fromtimestamp(self.until, UTC).isoformat(timespec="seconds")
        return (
            f"override={'begun' if self.begun else 'over'} rule={self.rule or 'all'} until={until} "
            f"by=pid{self.peer.pid}/uid{self.peer.uid} reason={self.reason!r}"
        )


Record: TypeAlias = Decision | Drift | LinkChange | Event | Override


@dataclass(frozen=True, slots=True)
class Entry:
    """One record with its number in the process, counted from 1, and its time in seconds since the epoch."""

    number: int
    time: float
    vm: str
    what: Record


class Run:
    """One run of the process: its token, and the numbers of its entries of all VMs."""

    def __init__(self, token: str | None = None) -> None:
        """Begin a run. The token distinguishes its references from those of another process."""
        self.token = token or os.urandom(3).hex()
        self.last = 0

    def ref(self, number: int) -> str:
        """Return the reference of an entry: unique among processes, and short."""
        return f"{self.token}-{number}"


class Journal:
    """The last entries of one VM, and the listeners that are called with each new one. A listener must not raise.

    Events have their own ring, so that many events do not push the decisions out.
    """

    def __init__(self, vm: str, run: Run, size: int = MAX_ENTRIES) -> None:
        self.vm = vm
        self.run = run
        self._events: deque[Entry] = deque(maxlen=size)
        self._others: deque[Entry] = deque(maxlen=size)
        self._listeners: list[Callable[[Entry], None]] = []

    @property
    def next_ref(self) -> str:
        """The reference of the next entry."""
        return self.run.ref(self.run.last + 1)

    def add(self, time: float, what: Record) -> Entry:
        """Add an entry and call the listeners with it."""
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
        """Return the first kept entry after a number, in the ring of events or the other one; None: there is none."""
        ring = self._events if events else self._others
        place = bisect_right(ring, number, key=_number)
        return ring[place] if place < len(ring) else None

    def before(self, number: int, *, events: bool) -> Entry | None:
        """Return the last kept entry before a number, in the ring of events or the other one; None: there is none."""
        ring = self._events if events else self._others
        place = bisect_left(ring, number, key=_number)
        return ring[place - 1] if place else None

    def listen(self, listener: Callable[[Entry], None]) -> Callable[[], None]:
        """Call ``listener`` with each new entry. Return the function that stops it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


def _number(entry: Entry) -> int:
    return entry.number
