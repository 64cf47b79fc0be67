"""What QEMU itself would do, as far as anybody can tell: `yes` only where this VM has shown it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.operations import CallUnlisted, Operation
from qmpguard.policy.policy import Mode, Policy, Profile
from qmpguard.policy.qemu_check import WORDS, QemuCheck, Refuses, seen_in
from qmpguard.policy.readers import read
from qmpguard.policy.reading.result import Harmless, Unreadable
from tests.support.scenes import Request, channel, hmp, on, plug, qmp

if TYPE_CHECKING:
    from collections.abc import Iterable

GPU = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", host="0000:65:00.0")
USER = Device("/machine/peripheral/vu0", "vfio-user-pci", "vu0")
BOGUS = Device("/machine/peripheral/nic0", "vfio-pci", "nic0", failover_pair_id="bogus")
VDPA = Device("/machine/peripheral/vd0", "vhost-vdpa-device-pci", "vd0")
POLICY = Policy(profile=Profile.STRICT, extra_types=frozenset({VDPA.driver}))
MIGRATE = qmp("migrate", uri="tcp:h:1")
ARRIVE = qmp("migrate-incoming", uri="tcp:h:1")
YES, NO, UNKNOWN = Refuses


def lit(devices: Iterable[Device], **facts: str | list[str]) -> Machine:
    return Machine.of(capabilities=["postcopy-ram"], devices=devices, **facts)  # type: ignore[arg-type]


SNAPSHOT = Machine.of(capabilities=["background-snapshot"], devices=[GPU])
WIDE = "Multiple VFIO devices migration is supported only if all of them support P2P migration"


def operation(request: Request) -> Operation:
    reading = read(request["execute"], request.get("arguments", {}), POLICY)
    if reading is None:
        return CallUnlisted(request["execute"])
    assert not isinstance(reading, Harmless | Unreadable)
    return reading


@pytest.mark.parametrize(
    ("request_", "machine", "refuses", "because"),
    [
        # at the start of a migration: it depends on the device, and on what this VM has shown
        (MIGRATE, lit([GPU]), YES, "upstream since 8.2; not proven on this VM"),
        (MIGRATE, SNAPSHOT, YES, "upstream since 8.2; not proven on this VM"),
        (hmp("migrate -d tcp:h:1"), lit([GPU]), YES, "upstream since 8.2; not proven on this VM"),
        (MIGRATE, lit([USER]), NO, "does not see such a device"),
        (MIGRATE, lit([BOGUS], standbys=[]), NO, "does not see such a device"),
        (MIGRATE, lit([VDPA]), NO, "does not see such a device"),
        (MIGRATE, lit([USER, BOGUS, GPU]), YES, "upstream since 8.2; not proven on this VM"),
        (MIGRATE, lit([USER], blockers=["the second", "the disk"]), YES, "blocked: the disk"),  # it names the last
        (MIGRATE, lit([USER], migration="active"), YES, "a migration is under way"),
        (MIGRATE, lit([USER], runstate="inmigrate"), YES, "waits for a migration to come"),
        (MIGRATE, lit([USER], runstate="postmigrate", migration="completed"), YES, "has migrated away"),
        # nowhere else has any version a check
        (ARRIVE, lit([GPU], blockers=["x"], runstate="inmigrate"), NO, "start of the incoming migration"),
        (ARRIVE, lit([GPU]), YES, "was not started with -incoming"),
        (qmp("migrate-start-postcopy"), lit([GPU], migration="active"), NO, "start of the postcopy phase"),
        (qmp("migrate-start-postcopy"), lit([GPU]), YES, "no migration has been started"),
        (on("postcopy-ram"), Machine.of(devices=[GPU]), NO, "it takes the capability"),
        (on("postcopy-ram"), Machine.of(devices=[GPU], migration="active"), YES, "a migration is under way"),
        (on("postcopy-ram"), Machine.of(devices=[GPU], migration="active", runstate="inmigrate"), NO, "it takes"),
        (on("postcopy-ram"), Machine.of(devices=[GPU], migration="postcopy-active"), NO, "it takes"),  # a destination
        (on("postcopy-ram"), Machine.of(devices=[GPU], migration="postcopy-active", runstate="paused"), YES, "under"),
        (on("postcopy-ram"), Machine.of(devices=[GPU], capabilities=["background-snapshot"]), YES, "together with ba"),
        (on("background-snapshot"), Machine.of(devices=[GPU], capabilities=["return-path"]), YES, "with return-path"),
        (on("background-snapshot", "multifd"), Machine.of(devices=[GPU]), YES, "together with multifd"),
        (plug("vfio-pci"), lit([]), UNKNOWN, "with -only-migratable it refuses one that cannot migrate"),
        (plug("vfio-pci", failover_pair_id="net0"), lit([]), NO, "it takes the device"),
        (plug("vfio-user-pci"), lit([]), NO, "it takes the device"),
        (plug("vfio-user-pci"), lit([], migration="active"), YES, "a migration is under way"),
        # the other rules
        (plug("vfio-pci", **{"enable-migration": "on"}), Machine.of(blockers=[WIDE]), YES, "since 8.2, also"),
        (plug("vfio-pci", **{"enable-migration": "on"}), Machine.of(blockers=["a disk"]), UNKNOWN, "8.1 takes"),
        (MIGRATE, Machine.of(capabilities=["background-snapshot"], runstate="prelaunch"), NO, "it aborts"),
        (MIGRATE, Machine.of(devices=[USER]), NO, "no such check"),
        (qmp("migrate", channels=channel(transport="exec")), Machine.of(), NO, "no such check"),
        (hmp("gdbserver"), Machine.of(), NO, "no such check"),
        (hmp("stop"), Machine.of(), NO, "no such check"),
        (on("postcopy-ram"), Machine.of(standbys=["net0"]), NO, "no such check"),
        (qmp("qom-set", path="g", property="realized", value=False), Machine.of(), NO, "no such check"),
        (qmp("qom-set", path="g", property="failover_pair_id", value=""), Machine.of(), UNKNOWN, "while the device is"),
        (qmp("no-such"), Machine.of(commands=["quit"]), YES, "has no such command"),
        (qmp("__vendor"), Machine.of(commands=["__vendor"]), NO, "no such check"),
    ],
    ids=str,
)
def test_what_qemu_itself_would_do(request_: Request, machine: Machine, refuses: Refuses, because: str) -> None:
    qemu_check = judge(operation(request_), machine, POLICY).qemu_check
    assert qemu_check.refuses is refuses
    assert because in qemu_check.reason
    assert str(qemu_check) == f"{refuses.value} ({qemu_check.reason})"


def test_what_this_vm_was_seen_to_refuse_it_will_refuse_again() -> None:
    seen = seen_in("Error: 0000:65:00.0: VFIO migration is not supported with postcopy migration\r\n")
    assert seen == {"vfio-postcopy"}
    machine = lit([GPU])
    machine = replace(machine, facts=replace(machine.facts, confirmed=seen))
    assert judge(operation(MIGRATE), machine, POLICY).qemu_check == QemuCheck(YES, "it has done so on this VM")
    snapshot = replace(SNAPSHOT, facts=replace(SNAPSHOT.facts, confirmed=seen))
    assert "not proven" in judge(operation(MIGRATE), snapshot, POLICY).qemu_check.reason
    assert seen_in("There's a migration process in progress") == frozenset()
    assert seen_in(" ".join(WORDS.values())) == WORDS.keys()


def test_where_nothing_is_found_nothing_is_told() -> None:
    qemu_check = judge(operation(MIGRATE), Machine.of(), POLICY).qemu_check
    assert (qemu_check.refuses, str(qemu_check)) == (UNKNOWN, "unknown")


def test_it_speaks_of_the_refusal_where_there_is_one_and_else_of_the_first_warning() -> None:
    assert "such a device" in judge(operation(MIGRATE), lit([USER]), POLICY).qemu_check.reason
    assert "such a device" in judge(operation(MIGRATE), lit([USER]), replace(POLICY, mode=Mode.WARN)).qemu_check.reason
