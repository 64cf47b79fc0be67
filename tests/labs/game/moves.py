"""The moves: what clients may ask for, by QMP and by HMP. Chance takes one of them for each client and round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from qmpguard.demo.qemu import vfio_user_device
from tests.support.guarding import capabilities
from tests.support.scenes import hmp, qmp

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scenes import Request

#: bytes a second: a migration that lasts for many rounds, and one that is over before the next
CRAWL, RUN = 20_000, 1 << 30
#: the devices of every game: slots that no guest has switched on, so that a device leaves at once
WORDS = [
    *(word for i in range(3) for word in ("-device", f"pcie-root-port,id=rp{i},chassis={i + 1},slot={i + 1}")),
    *("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"),
]
#: a failover standby; the primary that QEMU accepts and hides beside it; and the end of both
STANDBY = qmp("device_add", driver="virtio-net-pci", id="net0", failover=True, bus="rp1")
HIDE = qmp("device_add", driver="vfio-pci", id="vf0", host="0000:00:00.0", failover_pair_id="net0", bus="rp2")
END = qmp("device_del", id="net0")
#: closes the connection and opens it again; the guard never sees it as a request
LEAVE = qmp("leave")


@dataclass(frozen=True, slots=True)
class Place:
    """The sockets and files of a game: of a vfio-user server, of migrations' target, of monitors to be, of an image."""

    folder: Path

    @property
    def server(self) -> Path:
        """The socket of the vfio-user server."""
        return self.folder / "vu.sock"

    @property
    def away(self) -> str:
        """Where migrations go."""
        return f"unix:{self.folder / 'away.sock'}"

    @property
    def way(self) -> Path:
        """Where a monitor would listen."""
        return self.folder / "way.sock"


class Move(NamedTuple):
    """A request, and how often chance takes it, beside others with 1."""

    request: Request
    weight: int = 1


def moves(place: Place) -> list[Move]:
    """Return every move of a game."""
    return [*devices(place), *_capabilities(), *migrations(place), *_blocks(place), *netdevs(place), *_monitors(place)]


def devices(place: Place) -> list[Move]:
    """Return moves with devices; QEMUs before 11.1 have no vfio-user-pci."""
    device = {**vfio_user_device(place.server, id="gpu0"), "bus": "rp0"}
    return [
        Move(qmp("device_add", **device), 4),
        Move(qmp("device_del", id="gpu0"), 2),
        Move(hmp("device_del gpu0")),
        Move(STANDBY, 4),
        Move(HIDE, 2),
        Move(END),
        Move(qmp("device_add", driver="virtio-rng-pci", id="vf0", bus="rp2")),  # takes the primary's id
        Move(qmp("device_del", id="vf0"), 2),
        Move(hmp("device_add vfio-pci,id=vf1,host=0000:00:00.0,failover_pair_id=bogus,bus=rp2")),
        Move(qmp("device_add", driver="vhost-vdpa-device-pci", id="vd0", bus="rp2", vhostdev="/nowhere/vdpa")),
        Move(qmp("qom-set", path="gpu0", property="failover_pair_id", value="net0")),
    ]


def _capabilities() -> list[Move]:
    both = [{"capability": name, "state": state} for state in (False, True) for name in ("events", "postcopy-ram")]
    return [
        Move(qmp("migrate-set-capabilities", **capabilities(postcopy_ram=True)), 3),
        Move(qmp("migrate-set-capabilities", **capabilities(postcopy_ram=False)), 3),
        Move(qmp("migrate-set-capabilities", **capabilities(background_snapshot=True, postcopy_ram=False)), 2),
        Move(qmp("migrate-set-capabilities", **capabilities(background_snapshot=False)), 2),
        Move(qmp("migrate-set-capabilities", capabilities=both)),
        Move(hmp("migrate_set_capability postcopy-ram on"), 2),
        Move(hmp('migrate_set_capability "background-snapshot"on')),
        Move(hmp("migrate_set_capability postcopy-ram off")),
        Move(hmp("migrate_set_parameter postcopy-ram on")),
        Move(qmp("migrate-set-parameters", **{"max-bandwidth": CRAWL}), 2),
        Move(qmp("migrate-set-parameters", **{"max-bandwidth": RUN})),
    ]


def migrations(place: Place) -> list[Move]:
    """Return moves with migrations and snapshots to disk."""
    save = {"job-id": "j", "tag": "t", "vmstate": "disk", "devices": ["disk"]}
    return [
        Move(qmp("migrate", uri=place.away), 4),
        Move(hmp(f"migrate -d {place.away}"), 2),
        Move(qmp("migrate_cancel"), 2),
        Move(hmp("migrate_cancel")),
        Move(qmp("migrate-start-postcopy")),
        Move(qmp("cont"), 3),
        Move(qmp("stop")),
        Move(qmp("snapshot-save", **save)),
        Move(qmp("job-dismiss", id="j")),
        Move(hmp("savevm one")),
        Move(hmp("delvm one")),
    ]


def _blocks(place: Place) -> list[Move]:
    nvme = {"driver": "nvme", "device": "0000:00:00.0", "namespace": 1}
    server = {"type": "unix", "path": str(place.folder / "nobody")}
    file = str(place.folder / "image")
    return [
        Move(qmp("blockdev-add", **nvme, **{"node-name": "nv0"})),
        Move(qmp("blockdev-add", driver="raw", file=nvme, **{"node-name": "nv1"})),
        Move(hmp("drive_add 0 if=none,file=nvme://0000:00:00.0/1")),
        Move(qmp("blockdev-add", driver="file", filename=file, **{"node-name": "b0"}), 2),
        Move(qmp("blockdev-add", driver="nbd", server=server, **{"node-name": "b1"})),
        Move(qmp("blockdev-add", driver="null-co", **{"node-name": "b2"})),
        Move(qmp("blockdev-del", **{"node-name": "b0"})),
        Move(qmp("blockdev-del", **{"node-name": "b2"})),
    ]


def netdevs(place: Place) -> list[Move]:
    """Return moves with network back ends."""
    forward: dict[str, Any] = {"str": f"tcp:10.0.2.9:80-mon:unix:{place.way},server=on,wait=off"}
    return [
        Move(qmp("netdev_add", type="user", id="n0")),
        Move(qmp("netdev_add", type="user", id="n1", guestfwd=[forward])),
        Move(hmp(f"netdev_add user,id=n1,guestfwd=::80-mon:unix:{place.way},,server=on,,wait=off")),
        Move(qmp("netdev_add", type="user", id="n1", guestfwd=[{"str": "tcp:10.0.2.9:80-tcp:127.0.0.1:9"}])),
        Move(qmp("netdev_add", type="hubport", id="n2", hubid=0)),
        Move(qmp("netdev_add", type="vhost-vdpa", id="n3", vhostdev="/nowhere/vdpa")),
        Move(hmp("netdev_add vhost-vdpa,id=n3,vhostdev=/nowhere/vdpa")),
        *(Move(qmp("netdev_del", id=f"n{i}")) for i in range(4)),
    ]


def _monitors(place: Place) -> list[Move]:
    null = {"type": "null", "data": {}}
    return [
        Move(qmp("chardev-add", id="c0", backend=null)),
        Move(qmp("chardev-remove", id="c0")),
        Move(qmp("object-add", **{"qom-type": "monitor-hmp", "id": "m0", "chardev": "c0"})),
        Move(hmp("object_add monitor-qmp,id=m1,chardev=c0")),
        Move(hmp(f"gdbserver unix:{place.way},server=on,wait=off")),
        Move(qmp("yank", instances=[{"type": "chardev", "id": "compat_monitor0"}])),
        Move(LEAVE, 2),
    ]
