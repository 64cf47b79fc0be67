"""The failover primaries that QEMU keeps out of sight until the guest has negotiated failover (hw/net/virtio-net.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpguard.policy.device import Device


class HiddenPrimaries:
    """The failover primaries that QEMU has accepted and does not show in QOM. No event will ever tell of them."""

    def __init__(self) -> None:
        self.devices: tuple[Device, ...] = ()

    def add(self, device: Device) -> None:
        """Remember one, in place of an earlier one with its id."""
        self.forget(device.id)
        self.devices = (*self.devices, device)

    def forget(self, identity: str | None) -> None:
        """Forget the one with an id, which QEMU has given to another device."""
        self.devices = tuple(device for device in self.devices if device.id != identity)
