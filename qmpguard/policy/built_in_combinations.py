"""The combinations that QEMU does not survive, one row each. A configuration adds rows of its own to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.policy.combination import MIGRATION, At, Capability, Combination
from qmpguard.policy.migration import BACKGROUND_SNAPSHOT, POSTCOPY_RAM

if TYPE_CHECKING:
    from qmpguard.policy.policy import Policy

COLO = "x-colo"

BUILT_IN = (
    Combination(
        "vfio-postcopy",
        None,
        Capability(POSTCOPY_RAM),
        MIGRATION,
        "VFIO migration is not supported with postcopy migration",
        text="""Refuse a VFIO device together with `postcopy-ram`.

The destination discards guest RAM that the device has pinned, fails to map it again and dies; the guest is
lost. QEMU 8.2 and later say so at `migrate`, for `vfio-pci` without `failover_pair_id`, on the source only.

It is refused where the two would come together: when the capability is switched on, when the device is plugged in,
and when a migration or its postcopy phase starts. QEMU leaves the capability on when a migration is over. One that
was on in it, and is on still, is left over: a device may be plugged in, with a warning, and the next migration is
refused. In profile strict, and where the guard has not seen that migration, it is to be turned off first.

The primary of a failover pair counts too. QEMU unplugs it on the source, but on the destination it is plugged in again
while the standby is being loaded, and mapping its memory fails once postcopy has begun. `allow_failover_primary` lets
pairs pass whose standby is there; that this is safe has not been shown.

A block node of driver `nvme`, `virtio-blk-vfio-pci` or `virtio-blk-vhost-vdpa` counts as a VFIO device: it has a host
device of its own and maps guest RAM for it. It is named by its node name and its PCI address.""",
    ),
    Combination(
        "vfio-background-snapshot",
        None,
        Capability(BACKGROUND_SNAPSHOT),
        MIGRATION,
        "VFIO migration is not supported with background snapshot",
        text="""Refuse a VFIO device together with `background-snapshot`.

The device's state is not saved and its DMA is not tracked: the snapshot is corrupt, and nothing says so. It is
refused where `vfio-postcopy` refuses. `snapshot-save` and HMP's `savevm` are something else and pass.""",
    ),
    Combination(
        "vfio-colo",
        None,
        Capability(COLO),
        MIGRATION,
        "VFIO migration is not supported with COLO",
        text="""Refuse a VFIO device together with `x-colo`.

QEMU has no check: it accepts the migration, and its checkpoints call the device's handlers without having set them up.
It is refused where `vfio-postcopy` refuses.""",
    ),
    Combination(
        "snapshot-foreign-dma",
        ("vhost-user-*", "vhost-vdpa*"),
        Capability(BACKGROUND_SNAPSHOT),
        MIGRATION,
        "this device's data is written into guest RAM by others than QEMU, which background snapshot does not see",
        text="""Refuse `background-snapshot` with devices into whose memory another process or the hardware writes.

That is `vhost-user-*`, virtio-fs among them, and `vhost-vdpa*`. A background snapshot relies on userfaultfd, which sees
only what QEMU and the guest write: what such a device writes after the start stands in the snapshot, beside memory of
before the start. Seen on QEMU 7.2 and 11.1. `vfio-user-pci` is refused by `vfio-background-snapshot`. A `virtio-net`
device whose back end is vhost-user or vhost-vdpa has the same hazard, and its type does not show it.""",
    ),
    Combination(
        "vdpa-postcopy",
        ("vhost-vdpa-device*",),
        Capability(POSTCOPY_RAM),
        MIGRATION,
        "a vhost-vdpa device pins guest RAM, which postcopy migration discards",
        text="""Refuse a `vhost-vdpa-device` together with `postcopy-ram`.

It pins guest RAM as a VFIO device does, and no version of QEMU checks it. A `virtio-net` device whose back end is
`vhost-vdpa` has the same hazard, and its type does not show it. It is refused where `vfio-postcopy` refuses.""",
    ),
)


@dataclass(frozen=True, slots=True)
class Watched:
    """The settings that a combination looks at when they are set."""

    capabilities: frozenset[str]
    parameters: frozenset[str]


def combinations(policy: Policy) -> tuple[Combination, ...]:
    """Return the combinations that a policy knows: the built-in ones, then its own."""
    return BUILT_IN + policy.combinations


def watched(policy: Policy) -> Watched:
    """Return the settings that must be judged when they are set."""
    settings = [row.setting for row in combinations(policy) if At.SET in row.at]
    on = frozenset(setting.name for setting in settings if isinstance(setting, Capability))
    return Watched(on, frozenset(setting.name for setting in settings) - on)


def names(driver: str, policy: Policy) -> bool:
    """Say whether a combination names a QOM type, be it a VFIO device or not."""
    return any(At.PLUG in row.at and row.names(driver) for row in combinations(policy))
