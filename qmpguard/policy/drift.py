"""Drift: a change between two surveys of a VM that neither a command through the guard nor an event of QEMU explains.

QEMU sends events for devices that are unplugged and for failover that is negotiated, whether the guest, the host or a
command caused it. A change with an event is not drift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.policy.facts import Fact, Facts
from qmpguard.policy.hmp import commands, parser

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

_CAPABILITIES = frozenset({Fact.CAPABILITIES})
_DEVICES = frozenset({Fact.DEVICES})
_BOTH = _CAPABILITIES | _DEVICES

#: the commands that change watched facts, and these facts
CHANGES: Mapping[str, frozenset[Fact]] = {
    "migrate-set-capabilities": _CAPABILITIES,
    "migrate-set-parameters": _CAPABILITIES,
    "device_add": _DEVICES,
    "device_del": _DEVICES,
    "qom-set": _BOTH,
    "human-monitor-command": _BOTH,
}


@dataclass(frozen=True, slots=True)
class Drift:
    """One change: the fact, its names before, and its names after."""

    fact: Fact
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        """Return the change as one line."""
        before, after = (", ".join(names) or "none" for names in (self.before, self.after))
        return f"{self.fact.value}: {before} -> {after}"


#: capabilities that QEMU switches by itself: up to 9.0 `migrate` with `blk` does so, and again at its end
#: (migration/migration.c: migrate_set_block_enabled, block_cleanup_parameters)
SET_BY_QEMU = frozenset({"block"})


def _on(facts: Facts) -> tuple[str, ...] | None:
    return None if facts.capabilities is None else tuple(sorted(facts.capabilities - SET_BY_QEMU))


def _plugged(facts: Facts) -> tuple[str, ...] | None:
    return None if facts.devices is None else tuple(device.label for device in facts.devices)


_WATCHED: Mapping[Fact, Callable[[Facts], tuple[str, ...] | None]] = {
    Fact.CAPABILITIES: _on,
    Fact.DEVICES: _plugged,
}


def _changed_by(command: str, arguments: Mapping[str, Value]) -> frozenset[Fact]:
    """Return the watched facts that a command may change."""
    if command == "human-monitor-command":
        line = arguments.get("command-line")
        if isinstance(line, str) and isinstance(parser.read(line), commands.Info | commands.Rejected):
            return frozenset()
    return CHANGES.get(command, frozenset())


class Baseline:
    """The facts that the next survey is compared with: those of the last one, without those that commands changed."""

    def __init__(self) -> None:
        self.facts = Facts()
        self._negotiated: frozenset[str] = frozenset()  # the failover standbys whose primaries will appear in QOM
        self._changes = 0

    @property
    def ticket(self) -> int:
        """The number of changes so far. Read it before a survey: a change during the survey makes it useless."""
        return self._changes

    def begins(self, command: str, arguments: Mapping[str, Value]) -> bool:
        """Called when a command is sent; returns whether it may change a watched fact."""
        changed = _changed_by(command, arguments)
        self._forget(changed)
        return bool(changed)

    def ends(self, command: str, arguments: Mapping[str, Value]) -> None:
        """Called when a command was answered: a survey during the command may have read either state."""
        self._forget(_changed_by(command, arguments))

    def _forget(self, changed: frozenset[Fact]) -> None:
        self._changes += bool(changed)
        if Fact.CAPABILITIES in changed:
            self.facts = replace(self.facts, capabilities=None)
        if Fact.DEVICES in changed:
            self.facts = replace(self.facts, devices=None)

    def happened(self, event: str, data: Mapping[str, Value]) -> bool:
        """Called with each event of QEMU; returns whether it explains a change of the devices."""
        match event, data:
            case "DEVICE_DELETED", {"path": str(path)}:
                self._left(path)
            case "FAILOVER_NEGOTIATED", {"device-id": str(standby)}:
                self._changes += 1
                self._negotiated |= {standby}
            case _:
                return False
        return True

    def _left(self, path: str) -> None:
        self._changes += 1
        if (devices := self.facts.devices) is not None:
            self.facts = replace(self.facts, devices=tuple(device for device in devices if device.path != path))

    def compare(self, seen: Facts, ticket: int) -> list[Drift]:
        """Return the drifts, and make ``seen`` the new baseline."""
        if ticket != self._changes:
            return []
        if self._negotiated and seen.devices is not None:
            seen = self._with_primaries(seen)
        drifts = []
        for fact, names in _WATCHED.items():
            before, after = names(self.facts), names(seen)
            if before is not None and after is not None and before != after:
                drifts.append(Drift(fact, before, after))
        known = self.facts
        self.facts = replace(
            seen,
            capabilities=known.capabilities if seen.capabilities is None else seen.capabilities,
            devices=known.devices if seen.devices is None else seen.devices,
        )
        return drifts

    def _with_primaries(self, seen: Facts) -> Facts:
        """Add the primaries that appeared after a negotiation to the baseline. They are known only with details."""
        if seen.details is None:
            return replace(seen, devices=None)
        primaries = [device for device in seen.details if device.failover_pair_id in self._negotiated]
        shown = {device.path for device in primaries}
        if shown and (known := self.facts.devices) is not None:
            both = {device.path: device for device in (*known, *(d for d in seen.devices or () if d.path in shown))}
            self.facts = replace(self.facts, devices=tuple(both[path] for path in sorted(both)))
        self._negotiated -= {device.failover_pair_id or "" for device in primaries}
        return seen
