"""One device: which types are VFIO devices, and by which name a device is called."""

from __future__ import annotations

import pytest

from qmpguard.policy.device import Device, is_failover_standby, is_vfio

PATH = "/machine/peripheral/g"


@pytest.mark.parametrize(
    ("driver", "vfio"),
    [
        ("vfio-pci", True),
        ("vfio-pci-nohotplug", True),
        ("vfio-user-pci", True),
        ("vfio-ap", True),
        ("x-VFIO-of-tomorrow", True),  # whatever calls itself so counts
        ("vfio-pci-igd-lpc-bridge", False),
        ("x-vfio-user-server", False),
        ("virtio-net-pci", False),
        ("", False),
    ],
)
def test_a_type_is_a_vfio_device_by_its_name(driver: str, *, vfio: bool) -> None:
    assert is_vfio(driver) is vfio


def test_a_configuration_adds_types_as_they_are_spelled() -> None:
    assert is_vfio("my-nic", frozenset({"my-nic"}))
    assert is_vfio("vfio-pci-igd-lpc-bridge", frozenset({"vfio-pci-igd-lpc-bridge"}))
    assert not is_vfio("My-nic", frozenset({"my-nic"}))


@pytest.mark.parametrize(
    ("driver", "standby"),
    [
        *(("virtio-net-pci", True), ("virtio-net-pci-non-transitional", True), ("virtio-net-ccw", True)),
        *(("virtio-blk-pci", False), ("e1000e", False), ("virtio-net-device", False)),
    ],
)
def test_a_standby_is_a_virtio_net_device(driver: str, *, standby: bool) -> None:
    assert is_failover_standby(driver) is standby


@pytest.mark.parametrize(
    ("device", "name", "label"),
    [
        (Device(PATH, "vfio-pci"), PATH, PATH),
        (Device(PATH, "vfio-pci", "g"), "g", "g"),
        (Device(PATH, "vfio-pci", "g", "65:00.0"), "0000:65:00.0", "g"),
        (Device(PATH, "vfio-pci", "g", "0000:65:00.0"), "0000:65:00.0", "g"),
        (Device(PATH, "vfio-pci", "g", "ffff:ff:ff.f"), "g", "g"),  # so QEMU says it of an mdev
        (Device(PATH, "vfio-pci", "g", "65:00.0", "/sys/bus/mdev/devices/1-2/"), "1-2", "g"),
        (Device(PATH, "vfio-pci", "g", ""), "g", "g"),
    ],
)
def test_a_device_has_the_name_that_qemus_own_refusal_has(device: Device, name: str, label: str) -> None:
    assert (device.name, device.label) == (name, label)
