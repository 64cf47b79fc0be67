"""Migrations: the words that QEMU has for them, and which of them matter."""

from __future__ import annotations

from qmpguard.policy.migration import DANGEROUS, OVER, SNAPSHOTS, Migration, Progress, Start
from qmpguard.policy.schema import CAPABILITIES

#: every status (QEMU qapi/migration.json: MigrationStatus)
STATUSES = frozenset(
    {
        *("none", "setup", "cancelling", "cancelled", "active", "postcopy-device", "postcopy-active"),
        *("postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "completed", "failed", "colo"),
        *("pre-switchover", "device", "wait-unplug"),
    }
)


def test_the_dangerous_capabilities_are_capabilities_of_qemu() -> None:
    assert {"postcopy-ram", "background-snapshot"} == DANGEROUS
    assert DANGEROUS <= CAPABILITIES


def test_a_migration_is_over_in_states_of_qemu_and_before_the_first_none_is() -> None:
    assert OVER < STATUSES
    assert Migration().status == "none"
    assert "none" not in OVER


def test_a_snapshot_to_disk_is_no_migration() -> None:
    assert set(Start) - SNAPSHOTS == {Start.OUTGOING, Start.INCOMING, Start.POSTCOPY}


def test_the_share_of_vfio_devices_is_unknown_until_it_is_told() -> None:
    assert Progress(sent=1, total=2).vfio is None
