"""The twins that clients are tried on: a PC that runs and does nothing, with a device that counts as VFIO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.policy import Policy
from tests.support.conformance.twins import Twins

if TYPE_CHECKING:
    from pathlib import Path

DEVICE = "virtio-rng-pci"

#: a firmware of nothing but HLT: the processor stops at its first instruction, and with it all that could differ
_FIRMWARE = b"\xf4" * 65536


def twins_with_a_device(binary: Path, folder: Path) -> Twins:
    """Return the twins, not yet started."""
    firmware = folder / "firmware"
    firmware.write_bytes(_FIRMWARE)
    args = ("-bios", str(firmware), "-device", f"{DEVICE},id=gpu0")
    return Twins(binary, folder, args, machine="pc", policy=Policy(extra_types=frozenset({DEVICE})))
