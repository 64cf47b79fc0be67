"""Drift: what has changed between two looks at a VM although no command through the guard has changed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.policy import hmp
from qmpguard.policy.machine import Fact, Facts

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

_CAPABILITIES = frozenset({Fact.CAPABILITIES})
_DEVICES = frozenset({Fact.DEVICES})
_BOTH = _CAPABILITIES | _DEVICES

#: the commands that change what is watched, and what of it
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
    """One change: of what, from what, to what."""

    fact: Fact
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as one sentence."""
        before, after = (", ".join(names) or "none" for names in (self.before, self.after))
        return f"{self.fact.value}: {before} -> {after}"


def _on(facts: Facts) -> tuple[str, ...] | None:
    return None if facts.capabilities is None else tuple(sorted(facts.capabilities))


def _plugged(facts: Facts) -> tuple[str, ...] | None:
    return None if facts.devices is None else tuple(device.label for device in facts.devices)


_WATCHED: Mapping[Fact, Callable[[Facts], tuple[str, ...] | None]] = {
    Fact.CAPABILITIES: _on,
    Fact.DEVICES: _plugged,
}


def _changed_by(command: str, arguments: Mapping[str, Value]) -> tuple[frozenset[Fact], bool]:
    """Return what a command may change, of what is watched, and whether it asks a device to leave."""
    changed = CHANGES.get(command, frozenset())
    if command != "human-monitor-command":
        return changed, command == "device_del"
    line = arguments.get("command-line")
    reading = hmp.read(line) if isinstance(line, str) else None
    if isinstance(reading, hmp.Info | hmp.Rejected):
        return frozenset(), False
    return changed, isinstance(reading, hmp.DeviceDel)


class Baseline:
    """What the next look is compared with: what the last one saw, without what commands have changed since."""

    def __init__(self) -> None:
        self.facts = Facts()
        self._unplugging = 0  # devices that are asked to leave, and leave when the guest lets them
        self._changes = 0

    @property
    def ticket(self) -> int:
        """To be taken before a look: whatever changes while it is under way spoils it."""
        return self._changes

    def begins(self, command: str, arguments: Mapping[str, Value]) -> bool:
        """Take notice that a command is on its way; say whether it may change what is watched."""
        changed, unplugs = _changed_by(command, arguments)
        self._forget(changed)
        self._unplugging += unplugs
        return bool(changed)

    def ends(self, command: str, arguments: Mapping[str, Value]) -> None:
        """Take notice that a command was answered: what was seen meanwhile may be of before or after it."""
        self._forget(_changed_by(command, arguments)[0])

    def _forget(self, changed: frozenset[Fact]) -> None:
        self._changes += bool(changed)
        if Fact.CAPABILITIES in changed:
            self.facts = replace(self.facts, capabilities=None)
        if Fact.DEVICES in changed:
            self.facts = replace(self.facts, devices=None)

    def unplugged(self) -> None:
        """Take notice that a device has left; where it was asked to, that is no drift."""
        if self._unplugging:
            self._unplugging -= 1
            self._forget(_DEVICES)

    def compare(self, seen: Facts, ticket: int) -> list[Drift]:
        """Return what has drifted, and take what was seen as the new baseline."""
        if ticket != self._changes:
            return []
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
