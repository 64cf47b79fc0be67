"""One device of a VM, and the test whether a QOM type is a VFIO device."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: types with "vfio" in their names that are not VFIO devices: a dummy bridge, and a back end
NOT_DEVICES = frozenset({"vfio-pci-igd-lpc-bridge", "x-vfio-user-server"})

#: properties that decide whether QEMU's own check covers the device, once it is unrealized
VFIO_PROPERTIES = frozenset({"realized", "failover_pair_id", "enable-migration", "x-enable-migration"})

_SHORT_PCI_ADDRESS = re.compile(r"[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")


def is_vfio(driver: str, extra_types: frozenset[str] = frozenset()) -> bool:
    """Say whether a QOM type is a VFIO device.

    It decides by name, because a query of QEMU's class tree can abort a live VM. Every new type with vfio in its name
    counts.
    """
    return ("vfio" in driver.lower() and driver not in NOT_DEVICES) or driver in extra_types


def is_failover_standby(driver: str) -> bool:
    """Say whether a QOM type can be the standby of a failover pair (QEMU hw/net/virtio-net.c).

    A `virtio-net-device` cannot: only a PCI or CCW device has the name by which QEMU finds the primary
    (virtio_net_set_netclient_name).
    """
    return is_virtio_net(driver) and driver != "virtio-net-device"


def is_virtio_net(driver: str) -> bool:
    """Say whether a QOM type is a virtio-net device, on any bus."""
    return driver.startswith("virtio-net")


@dataclass(frozen=True, slots=True)
class Device:
    """One device. The details are None before they are queried, and where QEMU has no such property."""

    path: str  # in QOM
    driver: str  # its QOM type
    id: str | None = None
    host: str | None = None  # its PCI address on the host
    sysfsdev: str | None = None  # its path in the host's /sys
    failover_pair_id: str | None = None
    migration_forced: bool = False  # enable-migration=on

    @property
    def name(self) -> str:
        """The name that QEMU uses in its errors: the host's address where it is known."""
        if self.sysfsdev:
            return self.sysfsdev.rstrip("/").rpartition("/")[2]
        if self.host and self.host != "ffff:ff:ff.f":  # the host of an mdev device
            return f"0000:{self.host}" if _SHORT_PCI_ADDRESS.fullmatch(self.host) else self.host
        return self.id or self.path

    @property
    def label(self) -> str:
        """The id, or the QOM path where there is none."""
        return self.id or self.path
