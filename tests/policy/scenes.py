"""Situations of the golden tables: each is a machine for the pure core and a real VM for the end-to-end run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qmpguard.policy.machine import Device, Machine

Request = dict[str, Any]

VFIO = "vfio-user-pci"


@dataclass(frozen=True)
class Scene:
    """A VM. ``capabilities`` were switched on behind the guard's back; ``device``: a VFIO device is plugged.

    ``by_global``: they were switched on by the command line. ``hidden``: a failover primary was plugged through the
    guard, and QEMU keeps it out of sight. ``used``: the guard saw the migration that is over, with the capabilities on.
    """

    name: str
    capabilities: tuple[str, ...] = ()
    device: bool = False
    anonymous: bool = False
    standby: bool = False
    hidden: bool = False
    by_global: bool = False
    incoming: bool = False
    started: bool = True
    migration: str = "none"
    used: bool = False

    def machine(self) -> Machine:
        """The scene as the pure core sees it."""
        devices = []
        if self.device:
            path = "/machine/peripheral-anon/device[0]" if self.anonymous else "/machine/peripheral/gpu0"
            devices = [Device(path, VFIO, None if self.anonymous else "gpu0")]
        primary = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id="net0")
        return Machine.of(
            capabilities=self.capabilities,
            devices=devices,
            standbys=["net0"] if self.standby else [],
            hidden=[primary] if self.hidden else [],
            runstate="inmigrate" if self.incoming else "running" if self.started else "prelaunch",
            migration=self.migration,
            changed_type=VFIO if self.device else "",
            left_on=self.capabilities if self.used else [],
        )


PC, SNAP = "postcopy-ram", "background-snapshot"

BARE = Scene("no device, nothing on")
PLUGGED = Scene("a device", device=True)
ANONYMOUS = Scene("a device without an id", device=True, anonymous=True)
LIT = Scene("postcopy on", (PC,))
LIT_SNAP = Scene("background snapshot on", (SNAP,))
BOTH = Scene("a device and postcopy on", (PC,), device=True)
BOTH_ANONYMOUS = Scene("a device without an id and postcopy on", (PC,), device=True, anonymous=True)
BOTH_SNAP = Scene("a device and background snapshot on", (SNAP,), device=True)
INCOMING = Scene("waiting for a migration, with a device", device=True, incoming=True)
INCOMING_LIT = Scene("waiting for a migration, postcopy on", (PC,), incoming=True)
INCOMING_BOTH = Scene("waiting for a migration, with both", (PC,), device=True, incoming=True)
STANDBY = Scene("a failover standby", standby=True)
STANDBY_LIT = Scene("a failover standby and postcopy on", (PC,), standby=True)
HIDDEN = Scene("a failover standby that hides its primary", standby=True, hidden=True)
UNSTARTED_SNAP = Scene("not started yet, background snapshot on", (SNAP,), started=False)
UNSTARTED = Scene("not started yet", started=False)
OVER_LIT = Scene("after a migration, postcopy still on", (PC,), migration="failed", used=True)
SINCE_LIT = Scene("after a migration, postcopy on since", (PC,), migration="completed")
SINCE_SNAP = Scene("after a migration, background snapshot on since", (SNAP,), migration="completed")
OVER_BOTH = Scene("after a migration, with both", (PC,), device=True, migration="completed")
OVER_SNAP = Scene("after a migration, background snapshot still on", (SNAP,), migration="failed", used=True)
GLOBAL_LIT = Scene("postcopy on by the command line", (PC,), by_global=True)
GLOBAL_BOTH = Scene("a device and postcopy on, both by the command line", (PC,), device=True, by_global=True)
BITMAPS = Scene("a device and dirty-bitmaps on", ("dirty-bitmaps",), device=True)


def qmp(command: str, **arguments: Any) -> Request:
    """A request; underscores in the names of arguments stay."""
    return {"execute": command, "arguments": arguments} if arguments else {"execute": command}


def hmp(line: str) -> Request:
    """A line of HMP."""
    return qmp("human-monitor-command", **{"command-line": line})


def caps(*states: tuple[str, bool]) -> Request:
    """Capabilities, in order."""
    return qmp("migrate-set-capabilities", capabilities=[{"capability": c, "state": s} for c, s in states])


def on(*names: str) -> Request:
    """Capabilities on."""
    return caps(*((name, True) for name in names))


#: a failover primary, as `device_add` takes it
PRIMARY = {"driver": "vfio-pci", "id": "gpu0", "host": "0000:00:00.0", "failover_pair_id": "net0"}


def plug(driver: str = VFIO, **arguments: Any) -> Request:
    """device_add."""
    return qmp("device_add", driver=driver, **{"id": "hp0", **arguments})


def channel(**address: str) -> list[Any]:
    """The argument ``channels``."""
    return [{"channel-type": "main", "addr": address}]
