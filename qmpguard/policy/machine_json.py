"""Facts, policies and the guard's memory as JSON values, for `check --json`, `explain` and the console."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts
from qmpguard.policy.migration import Migration
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.netdevs import netdev
from qmpguard.policy.operations import SetProperty
from qmpguard.policy.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.policy.operations import Operation

JsonObject: TypeAlias = "dict[str, object]"


def facts_to_json(facts: Facts) -> JsonObject:
    """Return the facts as a JSON object. A fact that was not queried is left out."""
    members: JsonObject = {
        "capabilities": None if facts.capabilities is None else sorted(facts.capabilities),
        "devices": None if facts.details is None else [_device_to_json(device) for device in facts.details],
        "others": [_device_to_json(device) for device in facts.others] if facts.others else None,
        "blocks": None if facts.blocks is None else [_device_to_json(node) for node in facts.blocks],
        "netdevs": [_netdev_to_json(back_end) for back_end in facts.netdevs] or None,
        "standbys": None if facts.standbys is None else sorted(facts.standbys),
        "runstate": facts.runstate,
        "migration": facts.migration and {"status": facts.migration.status, "blockers": list(facts.migration.blockers)},
    }
    return {name: value for name, value in members.items() if value is not None}


#: the members of a machine in JSON
_MEMBERS = frozenset({"capabilities", "devices", "others", "blocks", "netdevs", "standbys", "runstate", "migration"})
_TEXTS = ("id", "host", "sysfsdev", "failover_pair_id")


def _device_to_json(device: Device) -> JsonObject:
    texts = {name: getattr(device, name) for name in _TEXTS}
    return {"path": device.path, "driver": device.driver} | {n: text for n, text in texts.items() if text is not None}


def _netdev_to_json(back_end: Device) -> JsonObject:
    return {"type": back_end.driver, "id": back_end.id}


def facts_from_json(value: object) -> Facts:
    """Return the facts in an object of `facts_to_json`, perhaps edited. Raises `ValueError` with the reason."""
    members = _members(value, "a machine", _MEMBERS)
    details = _devices(members, "devices") if "devices" in members else None
    return Facts(
        capabilities=frozenset(_texts(members, "capabilities")) if "capabilities" in members else None,
        devices=details,
        others=None if details is None else _devices(members, "others"),
        details=details,
        # an object with devices and without block nodes means that no block node is a VFIO device
        blocks=None if details is None else tuple(_device(entry) for entry in _list(members, "blocks")),
        netdevs=tuple(_netdev(entry) for entry in _list(members, "netdevs")),
        nics=None if details is None else (),
        standbys=frozenset(_texts(members, "standbys")) if "standbys" in members else None,
        runstate=_text(members, "runstate"),
        migration=_migration(members["migration"]) if "migration" in members else None,
    )


def policy_to_json(policy: Policy) -> JsonObject:
    """Return a policy as a JSON object; of combinations and plug-ins only the ids."""
    return {
        "mode": policy.mode.value,
        "profile": policy.profile.value,
        "rules": {rule: mode.value for rule, mode in policy.rules.items()},
        "extra_types": sorted(policy.extra_types),
        "allow_failover_primary": policy.allow_failover_primary,
        "added": [*(row.id for row in policy.combinations), *(rule.id for rule in policy.plugins)],
    }


def policy_from_json(value: object) -> Policy:
    """Return the policy in an object of `policy_to_json`, without its added rules.

    Raises `ValueError` with the reason.
    """
    members = _members(value, "a policy", frozenset(policy_to_json(Policy())))
    rules = _members(members.get("rules", {}), "'rules'", None)
    return Policy(
        Mode(_text(members, "mode")),
        Profile(_text(members, "profile")),
        {rule: Mode(mode) for rule, mode in rules.items()},
        frozenset(_texts(members, "extra_types")),
        members.get("allow_failover_primary") is True,
    )


def memory_to_json(facts: Facts) -> JsonObject:
    """Return the facts that a guard remembers, and no query returns, as a JSON object."""
    return {
        "hidden": [_device_to_json(device) for device in facts.hidden],
        "negotiated": sorted(facts.negotiated),
        "left_on": sorted(facts.left_on),
        "confirmed": sorted(facts.confirmed),
        "netdevs": [_netdev_to_json(back_end) for back_end in facts.netdevs],
    }


def memory_from_json(value: object) -> Facts:
    """Return the facts in an object of `memory_to_json`. Raises `ValueError` with the reason."""
    members = _members(value, "a memory", frozenset(memory_to_json(Facts())))
    return Facts(
        hidden=tuple(_device(entry) for entry in _list(members, "hidden")),
        negotiated=frozenset(_texts(members, "negotiated")) if "negotiated" in members else frozenset(),
        left_on=frozenset(_texts(members, "left_on")),
        confirmed=frozenset(_texts(members, "confirmed")),
        netdevs=tuple(_netdev(entry) for entry in _list(members, "netdevs")),
    )


def with_type(facts: Facts, operation: Operation) -> Facts:
    """Return the facts with the type of the object whose property an operation sets. QEMU takes partial paths."""
    if not isinstance(operation, SetProperty) or facts.details is None:
        return facts
    end = "/" + operation.change.path.lstrip("/")
    kind = next((device.driver for device in facts.details if device.path.endswith(end)), "")
    return replace(facts, type=kind)


def _devices(members: Mapping[str, object], name: str) -> tuple[Device, ...]:
    return tuple(sorted(map(_device, _list(members, name)), key=lambda device: device.path))


def _device(value: object) -> Device:
    members = _members(value, "a device", frozenset({"path", "driver", *_TEXTS}))
    driver, identity = _text(members, "driver"), _text(members, "id")
    path = _text(members, "path") or (f"/machine/peripheral/{identity}" if identity else None)
    if driver is None or path is None:
        raise ValueError("a device needs a 'driver', and a 'path' or an 'id'")
    host, sysfsdev, pair = (_text(members, name) for name in ("host", "sysfsdev", "failover_pair_id"))
    return Device(path, driver, identity, host, sysfsdev, pair)


def _netdev(value: object) -> Device:
    members = _members(value, "a netdev", frozenset({"type", "id"}))
    return netdev(_text(members, "type") or "", _text(members, "id") or "")


def _migration(value: object) -> Migration:
    members = _members(value, "a migration", frozenset({"status", "blockers"}))
    return Migration(_text(members, "status") or "none", tuple(_texts(members, "blockers")))


def _members(value: object, what: str, known: frozenset[str] | None) -> Mapping[str, object]:
    """Return the members of an object; ``known`` are the allowed names, None: any. Raises `ValueError`."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is an object")
    unknown = value.keys() - known if known is not None else set()
    if unknown:
        raise ValueError(f"{what} has no {min(unknown)!r}")
    return value


def _text(members: Mapping[str, object], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name!r} is a string")
    return value


def _list(members: Mapping[str, object], name: str) -> list[object]:
    value = members.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name!r} is a list")
    return value


def _texts(members: Mapping[str, object], name: str) -> list[str]:
    texts = [entry for entry in _list(members, name) if isinstance(entry, str)]
    if len(texts) < len(_list(members, name)):
        raise ValueError(f"{name!r} is a list of strings")
    return texts
