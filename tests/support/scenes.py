"""Situations of the golden tables: each is a machine for the pure core and a real VM for the end-to-end run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qmpguard.policy.device import Device
from qmpguard.policy.machine import Machine

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
    paused: bool = False
    mode: str = ""
    shared: bool = False
    only: str = ""
    used: bool = False

    @property
    def runstate(self) -> str:
        """QEMU's run state."""
        if self.incoming:
            return "inmigrate"
        return "paused" if self.paused else "running" if self.started else "prelaunch"

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
            runstate=self.runstate,
            parameters={"mode": self.mode} if self.mode else {},
            shared_memory=["ram0"] if self.shared else [],
            version=(7, 2, 22) if self.only == "7.2" else (11, 1, 3),
            migration=self.migration,
            changed_type=VFIO if self.device else "",
            left_on=self.capabilities if self.used else [],
            sockets=["qmp0.sock"],
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
RP, COLO_CAPABILITY = "return-path", "x-colo"
COLO = Scene("COLO on", (RP, COLO_CAPABILITY))
BOTH_COLO = Scene("a device and COLO on", (RP, COLO_CAPABILITY), device=True)
INCOMING_COLO = Scene("waiting for a migration, COLO on", (RP, COLO_CAPABILITY), incoming=True)
MULTIFD_OLD = Scene("multifd on in an old QEMU", ("multifd",), only="7.2")
MULTIFD_NEW = Scene("multifd on in a new QEMU", ("multifd",), only="11.1")
SHARED = Scene("shared memory", shared=True)
IGNORED = Scene("shared memory that is ignored", ("x-ignore-shared",), shared=True)
IGNORED_PAUSED = Scene("shared memory that is ignored, paused", ("x-ignore-shared",), shared=True, paused=True)
IGNORED_PRIVATE = Scene("x-ignore-shared on, no shared memory", ("x-ignore-shared",))
IGNORED_INCOMING = Scene("a template is to come", ("x-ignore-shared",), shared=True, incoming=True)
REBOOT = Scene("mode cpr-reboot", mode="cpr-reboot", only="11.1")
TRANSFER = Scene("mode cpr-transfer", mode="cpr-transfer", only="11.1")
CPR_EXEC = Scene("mode cpr-exec", mode="cpr-exec", only="11.1")
NORMAL = Scene("mode normal, set by hand", mode="normal", only="11.1")
PAUSED = Scene("paused", paused=True)
OLD, NEW = Scene("an old QEMU", only="7.2"), Scene("a new QEMU", only="11.1")
OLD_PAUSED = Scene("an old QEMU, paused", paused=True, only="7.2")
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


#: a snapshot to disk, and what it is called
TO_DISK = {"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]}
UNIX = {"transport": "socket", "type": "unix", "path": "/nowhere/at/all"}


def save(**arguments: Any) -> Request:
    """snapshot-save."""
    return qmp("snapshot-save", **TO_DISK, **arguments)


def load(**arguments: Any) -> Request:
    """snapshot-load."""
    return qmp("snapshot-load", **TO_DISK, **arguments)


def channels(*kinds: str) -> list[Any]:
    """Several channels to a unix socket."""
    return [{"channel-type": kind, "addr": UNIX} for kind in kinds]


def channel(**address: Any) -> list[Any]:
    """The argument ``channels``."""
    return [{"channel-type": "main", "addr": address}]
