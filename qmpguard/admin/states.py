"""The state of each VM as the admin interface tells it, encoded once for as long as it stays the same."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Protocol

from qmpguard.admin import serialize
from qmpguard.proxy.state.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Collection

    from qmpguard.record import Journal, Run

#: what of a snapshot is compared as it is: not the time, and not what counts on in place
_COMPARED = tuple(field.name for field in fields(Snapshot) if field.name not in {"time", "counts", "surveys"})


class VmState(Protocol):
    """What is shown of one VM."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def journal(self) -> Journal:
        """What has happened."""
        ...

    def snapshot(self) -> Snapshot:
        """Return all that is known of it, from memory."""
        ...


class States:
    """The encoded states. Two that are told alike are the same object."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._kept: dict[str, tuple[tuple[object, ...], bytes]] = {}

    def of(self, vm: VmState) -> bytes:
        """Return the JSON of a VM's present state: a snapshot is taken, and encoded only if it shows something new."""
        shot = vm.snapshot()
        marks = mark(shot)
        kept = self._kept.get(shot.name)
        if kept is not None and kept[0] == marks:
            return kept[1]
        data = encode(serialize.vm(shot, self._run))
        self._kept[shot.name] = marks, data
        return data

    def keep_only(self, names: Collection[str]) -> None:
        """Forget the VMs that are not among these."""
        for name in self._kept.keys() - set(names):
            del self._kept[name]


def mark(shot: Snapshot) -> tuple[object, ...]:
    """Return what differs between two snapshots that are not told alike."""
    counts = shot.counts
    return (
        counts.drifts,
        *serialize.counts(counts).values(),
        *(getattr(shot, name) for name in _COMPARED),
    )


def encode(data: object) -> bytes:
    """Return plain values as JSON in one line."""
    return json.dumps(data, separators=(",", ":")).encode()
