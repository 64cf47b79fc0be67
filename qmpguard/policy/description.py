"""A new device, as the arguments of `device_add` describe it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.device import Device
from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.wire.json import Value

#: how a boolean property is said to be on: up to 8.0 enable-migration has an x- and is one (QEMU qapi_bool_parse)
_ON = (True, "on", "yes", "true", "y")


def described(driver: str, arguments: Mapping[str, Value]) -> Device:
    """Return the device with what the rules speak about."""

    def text(name: str) -> str | None:
        return _spelled(arguments.get(name))

    given = arguments.get("id")
    identity = given if isinstance(given, str) and given else None  # QEMU ignores an id of another kind
    return Device(
        path=f"/machine/peripheral/{identity}" if identity else f"a new {driver}",
        driver=driver,
        id=identity,
        host=text("host"),
        sysfsdev=text("sysfsdev"),
        failover_pair_id=text("failover_pair_id"),
        migration_forced=any(arguments.get(name) in _ON for name in ("enable-migration", "x-enable-migration")),
    )


def _spelled(value: Value) -> str | None:
    """Return a scalar as QEMU up to 9.1 makes text of it (util/qemu-option.c: qemu_opts_from_qdict_entry)."""
    match value:
        case str():
            return value
        case bool():
            return "on" if value else "off"
        case int():
            return str(value)
        case Number(number):
            return number
        case _:
            return None
