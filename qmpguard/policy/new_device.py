"""A new device, from the arguments of `device_add`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.device import Device
from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.wire.json import Value

#: the values of a boolean property that is on (QEMU qapi_bool_parse); up to 8.0 it is x-enable-migration
_ON = (True, "on", "yes", "true", "y")


def new_device(driver: str, arguments: Mapping[str, Value]) -> Device:
    """Return the device with the properties that rules read."""

    def text(name: str) -> str | None:
        return _as_text(arguments.get(name))

    id_ = arguments.get("id")
    identity = id_ if isinstance(id_, str) and id_ else None  # QEMU ignores an id of another kind
    return Device(
        path=f"/machine/peripheral/{identity}" if identity else f"a new {driver}",
        driver=driver,
        id=identity,
        host=text("host"),
        sysfsdev=text("sysfsdev"),
        failover_pair_id=text("failover_pair_id"),
        migration_forced=any(arguments.get(name) in _ON for name in ("enable-migration", "x-enable-migration")),
    )


def _as_text(value: Value) -> str | None:
    """Return a scalar as text, as QEMU up to 9.1 converts it (util/qemu-option.c: qemu_opts_from_qdict_entry)."""
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
