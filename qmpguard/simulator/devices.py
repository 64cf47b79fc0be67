"""The devices of a simulated QEMU, as `device_add`, `device_del`, `qom-list` and `qom-get` see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpguard.policy.survey import ANONYMOUS, PERIPHERAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qmpguard.recording.lines import Members
    from qmpguard.wire.json import Value


class RefusedBySimulator(Exception):  # noqa: N818 -- an answer
    """An error of QEMU, as the reply to a command. ``kind`` is QEMU's class."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


class SimulatedDevices:
    """The devices, by their QOM paths. The methods raise `RefusedBySimulator` with QEMU's errors."""

    def __init__(self, devices: Iterable[Mapping[str, Any]] = ()) -> None:
        self._devices: dict[str, Members] = {}
        for device in devices:
            self.add(dict(device))

    def add(self, arguments: Members) -> None:
        """Plug a device."""
        identity = arguments.get("id")
        if f"{PERIPHERAL}/{identity}" in self._devices:
            raise RefusedBySimulator(f"Duplicate device ID '{identity}'")
        number = sum(path.startswith(ANONYMOUS) for path in self._devices)
        path = f"{ANONYMOUS}/device[{number}]" if identity is None else f"{PERIPHERAL}/{identity}"
        self._devices[path] = arguments

    def remove(self, identity: str) -> Members:
        """Unplug a device, by its id or path. Return the data of the event DEVICE_DELETED."""
        path = identity if identity.startswith("/") else f"{PERIPHERAL}/{identity}"
        if self._devices.pop(path, None) is None:
            raise RefusedBySimulator(f"Device '{identity}' not found", "DeviceNotFound")
        return {"path": path, **({"device": path.rpartition("/")[2]} if path.startswith(f"{PERIPHERAL}/") else {})}

    def list(self, path: str) -> Value:
        """Return the properties of an object, as `qom-list` does."""
        if path in self._devices:
            return [{"name": name, "type": "str"} for name in ("type", *self._devices[path])]
        if path not in (PERIPHERAL, ANONYMOUS):
            raise RefusedBySimulator(f"Device '{path}' not found", "DeviceNotFound")
        entries: list[Value] = [{"name": "type", "type": "string"}]
        for at, device in self._devices.items():
            folder, _, name = at.rpartition("/")
            if folder == path:
                entries.append({"name": name, "type": f"child<{device['driver']}>"})
        return entries

    def property(self, path: str, name: str) -> Value:
        """Return a property of a device, by its path or a part of it."""
        device = next((d for at, d in self._devices.items() if at == path or at.endswith(f"/{path}")), None)
        if device is None:
            raise RefusedBySimulator(f"Device '{path}' not found", "DeviceNotFound")
        if name == "type":
            return device["driver"]
        if name not in device:
            raise RefusedBySimulator(f"Property '{device['driver']}.{name}' not found")
        return device[name]

    def first_of(self, driver: str) -> str:
        """Return the name of the first device of a driver; empty: there is none."""
        found = (at.rpartition("/")[2] for at, device in self._devices.items() if device.get("driver") == driver)
        return next(found, "")
