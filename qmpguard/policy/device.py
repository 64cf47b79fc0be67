"""One device of a VM: its type and its names; and which types are VFIO devices."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: types whose name contains "vfio" but that hold no passed-through device: a dummy bridge, and a back end
NOT_DEVICES = frozenset({"vfio-pci-igd-lpc-bridge", "x-vfio-user-server"})

#: properties that change what QEMU's own check sees, once an object is unrealized
VFIO_PROPERTIES = frozenset({"realized", "failover_pair_id", "enable-migration", "x-enable-migration"})

_SHORT_PCI_ADDRESS = re.compile(r"[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")


def is_vfio(driver: str, extra_types: frozenset[str] = frozenset()) -> bool:
    """Say whether a QOM type is a VFIO device.

    By name, because asking QEMU for its class tree can abort a live VM. Anything new that calls itself vfio counts.
    """
    return ("vfio" in driver.lower() and driver not in NOT_DEVICES) or driver in extra_types


def is_failover_standby(driver: str) -> bool:
    """Say whether a QOM type can be the standby of a failover pair (QEMU hw/net/virtio-net.c)."""
    return driver.startswith("virtio-net")


@dataclass(frozen=True, slots=True)
class Device:
    """One device. The details are None until they are asked for, and where QEMU has no such property."""

    path: str
    driver: str
    id: str | None = None
    host: str | None = None
    sysfsdev: str | None = None
    failover_pair_id: str | None = None
    migration_forced: bool = False

    @property
    def name(self) -> str:
        """The name as QEMU says it in its own refusals: the host's address where it is known."""
        if self.sysfsdev:
            return self.sysfsdev.rstrip("/").rpartition("/")[2]
        if self.host and self.host != "ffff:ff:ff.f":  # an mdev's host reads so
            return f"0000:{self.host}" if _SHORT_PCI_ADDRESS.fullmatch(self.host) else self.host
        return self.id or self.path

    @property
    def label(self) -> str:
        """How people find it: its id, or its place in the QOM tree."""
        return self.id or self.path
