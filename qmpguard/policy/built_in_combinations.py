"""The built-in combinations: those that QEMU does not survive, one row each. A configuration can add rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.policy.combination import MIGRATION, Capability, Combination, Moment
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
        pair_message="once the postcopy phase has begun, the destination cannot plug this failover primary in: "
        "the guest goes on with its standby",
        pair_fix="afterwards turn postcopy-ram off on the destination, and plug the primary in with device_add",
        text="""Refuse a VFIO device together with `postcopy-ram`.

The destination discards guest RAM that the device has pinned, fails to map it again and dies. The guest is lost. QEMU
8.2 and later refuse it at `migrate`, for `vfio-pci` without `failover_pair_id`, on the source only.

A command is refused when it would bring the two together: when the capability is switched on, when the device is
plugged in, and when a migration or its postcopy phase starts. QEMU leaves the capability on after a migration. A
capability that was on in the last migration, and is still on, is stale: a device may be plugged in, with a warning, and
the next migration is refused. In profile strict, and where the guard has not seen that migration, the capability must
be switched off first.

The primary of a matched failover pair passes with a warning: its standby is there, with `failover=on`, it has no other
primary, and the guard has seen QEMU's event FAILOVER_NEGOTIATED. QEMU unplugs it on the source. If the postcopy phase
has begun, the destination cannot map guest RAM for its primary (`-14`, EFAULT) and only logs a warning: the primary
leaves QOM without an event, and the guest goes on with its virtio-net. Its memory is that of the source. Seen on QEMU
10.0 and 11.1. Afterwards switch `postcopy-ram` off, and plug the primary in with `device_add`. If the phase has not
begun, the destination has its primary.

The primary of any other pair is refused: a type other than `vfio-pci`, without a standby, while QEMU hides it on a
running VM, when it is plugged in with the capability on, and on a destination where it is not hidden. So is one whose
guest negotiated before the guard was there: a primary that was plugged in before its standby shows itself without any
negotiation, and QEMU does not unplug it. Profile strict
refuses every pair. With `allow_failover_primary = true` in `[policy]` a primary passes in both profiles, without a
warning, if its standby is there; it passes `vfio-background-snapshot` and `vfio-colo` too, at your own risk.

A block node of driver `nvme`, `virtio-blk-vfio-pci` or `virtio-blk-vhost-vdpa` counts as a VFIO device: it owns a host
device and maps guest RAM for it. It is identified by its node name and its PCI address.""",
    ),
    Combination(
        "vfio-background-snapshot",
        None,
        Capability(BACKGROUND_SNAPSHOT),
        MIGRATION,
        "VFIO migration is not supported with background snapshot",
        text="""Refuse a VFIO device together with `background-snapshot`.

The device's state is not saved and its DMA is not tracked: the snapshot is corrupt, and QEMU reports no error. It is
refused at the same commands as `vfio-postcopy`. `snapshot-save` and HMP's `savevm` do not use this capability and
pass.

A failover pair is refused too: QEMU unplugs its primary for the snapshot, and the guest goes on without it.""",
    ),
    Combination(
        "vfio-colo",
        None,
        Capability(COLO),
        MIGRATION,
        "VFIO migration is not supported with COLO",
        text="""Refuse a VFIO device together with `x-colo`.

QEMU has no check: it accepts the migration, and its checkpoints call handlers of the device that were not set up.
It is refused at the same commands as `vfio-postcopy`.""",
    ),
    Combination(
        "snapshot-foreign-dma",
        ("vhost-user*", "vhost-vdpa*"),
        Capability(BACKGROUND_SNAPSHOT),
        MIGRATION,
        "another process or the hardware writes this device's data into guest RAM, unseen by the background snapshot",
        text="""Refuse `background-snapshot` with devices into whose memory another process or the hardware writes.

These are `vhost-user-*`, with virtio-fs, `vhost-vdpa*`, and network back ends of type `vhost-user`, `vhost-vdpa` and
`passt` with `vhost-user`, which are known as `vdpa-postcopy` knows them. A background snapshot relies on userfaultfd,
which detects only writes of QEMU and of the guest. The snapshot mixes data that such a device writes after the start
with memory from before the start. Seen on QEMU 7.2 and 11.1. `vfio-user-pci` is refused by
`vfio-background-snapshot`.""",
    ),
    Combination(
        "vdpa-postcopy",
        ("vhost-vdpa*",),
        Capability(POSTCOPY_RAM),
        MIGRATION,
        "a vhost-vdpa device pins guest RAM, which postcopy migration discards",
        text="""Refuse vhost-vdpa, as a `vhost-vdpa-device` or behind a `virtio-net`, together with `postcopy-ram`.

It pins guest RAM as a VFIO device does, and no version of QEMU checks it. It is refused at the same commands as
`vfio-postcopy`, and at `netdev_add`.

QEMU does not show the type of a network back end: a `virtio-net` device is of one type with a tap and with
`vhost-vdpa`. So the guard remembers each `netdev_add` of type `vhost-vdpa` that QEMU has accepted, in QMP and in HMP,
until `netdev_del`, and `exec` reads the back ends on QEMU's command line. A back end that was there before the guard
connected, or that another monitor has added, is not known. `check` names the devices whose back end is not known.""",
    ),
)


@dataclass(frozen=True, slots=True)
class WatchedSettings:
    """The settings that some combination judges when they are set."""

    capabilities: frozenset[str]
    parameters: frozenset[str]


def combinations(policy: Policy) -> tuple[Combination, ...]:
    """Return the combinations of a policy: the built-in ones, then its own."""
    return BUILT_IN + policy.combinations


def watched_settings(policy: Policy) -> WatchedSettings:
    """Return the settings that are judged when they are set."""
    settings = [row.setting for row in combinations(policy) if Moment.SET in row.at]
    on = frozenset(setting.name for setting in settings if isinstance(setting, Capability))
    return WatchedSettings(on, frozenset(setting.name for setting in settings) - on)


def names_type(driver: str, policy: Policy) -> bool:
    """Say whether a combination names a QOM type in its ``types``."""
    return any(Moment.PLUG in row.at and row.matches(driver) for row in combinations(policy))
