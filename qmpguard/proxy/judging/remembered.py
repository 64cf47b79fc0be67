"""Devices that the guard remembers, since QEMU accepts them and shows them nowhere.

These are failover primaries, until the guest has negotiated failover (hw/net/virtio-net.c), and network back ends that
access guest RAM, until `netdev_del` (net/net.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpguard.policy.device import Device


class RememberedDevices:
    """Devices of one kind that QEMU has accepted and does not show. No event will ever tell of them."""

    def __init__(self, devices: tuple[Device, ...] = ()) -> None:
        self.devices = devices

    def add(self, device: Device) -> None:
        """Remember one, in place of an earlier one with its id."""
        self.forget(device.id)
        self.devices = (*self.devices, device)

    def forget(self, identity: str | None) -> None:
        """Forget the one with an id, which is gone."""
        self.devices = tuple(device for device in self.devices if device.id != identity)
