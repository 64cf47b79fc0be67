"""The cache of encoded VM states: each state is encoded once while it does not change."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Protocol

from qmpguard.admin import serialize
from qmpguard.proxy.state.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Collection

    from qmpguard.record import Journal, Run

#: the fields of a snapshot that are compared: not the time, and not the mutable counters
_COMPARED = tuple(field.name for field in fields(Snapshot) if field.name not in {"time", "counts", "surveys"})


class VmState(Protocol):
    """One VM, as the admin interface reads it."""

    @property
    def name(self) -> str:
        """The VM's name."""
        ...

    @property
    def journal(self) -> Journal:
        """The VM's journal."""
        ...

    def snapshot(self) -> Snapshot:
        """Return the VM's present state, from memory."""
        ...


class StateCache:
    """The encoded states. Equal states are the same object."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._entries: dict[str, tuple[tuple[object, ...], bytes]] = {}

    def of(self, vm: VmState) -> bytes:
        """Return the JSON of a VM's present state. It is encoded only if it has changed."""
        snapshot = vm.snapshot()
        current = fingerprint(snapshot)
        cached = self._entries.get(snapshot.name)
        if cached is not None and cached[0] == current:
            return cached[1]
        data = encode(serialize.vm(snapshot, self._run))
        self._entries[snapshot.name] = current, data
        return data

    def keep_only(self, names: Collection[str]) -> None:
        """Remove every VM except these."""
        for name in self._entries.keys() - set(names):
            del self._entries[name]


def fingerprint(snapshot: Snapshot) -> tuple[object, ...]:
    """Return the parts of a snapshot that its JSON shows, for a comparison."""
    counts = snapshot.counts
    return (
        counts.drifts,
        *serialize.counts(counts).values(),
        *(getattr(snapshot, name) for name in _COMPARED),
    )


def encode(data: object) -> bytes:
    """Return plain values as JSON in one line."""
    return json.dumps(data, separators=(",", ":")).encode()
