"""The forecast: what is said of each way to migrate before anybody asks for one."""

from __future__ import annotations

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts
from qmpguard.policy.forecast import (
    NOW,
    Passes,
    as_it_stands,
    forecasts,
    incoming_forecasts,
    lacks_cpr,
    obstacle,
    others,
)
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import Start
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.policy.problem import MAX_TEXT, Problem
from qmpguard.policy.rules import modes
from qmpguard.wire.json import Value

GPU = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", host="0000:65:00.0")
VU = Device("/machine/peripheral/vu0", "vfio-user-pci", "vu0")


def chances(facts: Facts, policy: Policy | None = None) -> list[str]:
    return [f"{p.way}: {p.passes.value}" for p in forecasts(facts, policy or Policy())]


def test_a_vm_without_vfio_may_migrate_in_every_way() -> None:
    assert chances(Machine.of().facts) == ["plain: yes", "postcopy: yes", "background snapshot: yes"]


def test_with_a_vfio_device_only_the_plain_way_is_open() -> None:
    plain, postcopy, snapshot = forecasts(Machine.of(devices=[GPU]).facts, Policy())
    assert plain.passes is Passes.YES
    assert (postcopy.passes, postcopy.rule) == (Passes.NO, "vfio-postcopy")
    assert postcopy.reason == "0000:65:00.0: VFIO migration is not supported with postcopy migration"
    assert postcopy.fix == "migrate the plain way, or unplug the device first"
    assert (snapshot.passes, snapshot.rule) == (Passes.NO, "vfio-background-snapshot")


def test_what_is_on_now_does_not_matter_but_what_each_way_would_use() -> None:
    lit = Machine.of(devices=[GPU], capabilities=["postcopy-ram", "background-snapshot"]).facts
    assert chances(lit)[0] == "plain: yes"


@pytest.mark.parametrize(
    ("on", "parameters", "stands", "once"),
    [
        ([], {}, Passes.YES, ()),
        (["postcopy-ram"], {"mode": "normal"}, Passes.NO, ("postcopy-ram is off",)),
        (["xbzrle"], {}, Passes.YES, ()),
        (
            ["postcopy-ram", "x-colo"],
            {"mode": "cpr-reboot"},
            Passes.NO,
            ("postcopy-ram is off", "x-colo is off", "mode is normal"),
        ),
    ],
)
def test_a_bare_migrate_is_told_as_it_stands_and_the_plain_way_once_it_is_one(
    on: list[str], parameters: dict[str, Value], stands: Passes, once: tuple[str, ...]
) -> None:
    facts = Machine.of(devices=[GPU], capabilities=on, parameters=parameters).facts
    now, plain = as_it_stands(facts, Policy()), forecasts(facts, Policy())[0]
    assert (now.way, now.passes, now.once) == (NOW, stands, ())
    assert (plain.passes, plain.once) == (Passes.YES, once)


def test_what_helps_as_it_stands_is_to_switch_it_off() -> None:
    now = as_it_stands(Machine.of(devices=[GPU], capabilities=["postcopy-ram"]).facts, Policy())
    assert now.fix == "turn it off with migrate-set-capabilities, or unplug the device"


def test_a_way_that_is_closed_has_no_condition() -> None:
    postcopy = forecasts(Machine.of(devices=[GPU], capabilities=["x-colo"]).facts, Policy())[1]
    assert (postcopy.passes, postcopy.once) == (Passes.NO, ())


def test_what_is_only_warned_of_is_said() -> None:
    assert chances(Machine.of(devices=[VU]).facts)[0] == "plain: yes, with a warning"
    assert chances(Machine.of(devices=[GPU]).facts, Policy(mode=Mode.WARN))[1] == "postcopy: yes, with a warning"


def test_what_stands_in_the_way_without_a_device_has_its_own_remedy() -> None:
    snapshot = forecasts(Machine.of(runstate="prelaunch").facts, Policy())[2]
    assert (snapshot.rule, snapshot.fix) == (
        "snapshot-runstate",
        "continue the VM with cont first, or turn background-snapshot off",
    )


def test_what_qemu_itself_blocks_is_said() -> None:
    plain = forecasts(Machine.of(devices=[GPU], blockers=["a second", "no kernel support"]).facts, Policy())[0]
    assert (plain.passes, plain.reason) == (Passes.NO, "QEMU itself refuses: no kernel support")


def test_what_is_not_known_is_never_taken_for_yes() -> None:
    assert {p.passes for p in forecasts(Facts(), Policy())} == {Passes.UNKNOWN}
    assert forecasts(Facts(), Policy())[0].reason == "not known yet: devices"


def test_the_modes_are_the_effective_ones_and_unverified_is_never_off() -> None:
    policy = Policy(Mode.WARN, rules={"hmp-write": Mode.ENFORCE, "unverified": Mode.OFF})
    effective = dict(modes(policy))
    assert effective["vfio-postcopy"] is effective["hmp-write"] is effective["unverified"] is Mode.WARN
    assert effective["runs-program"] is Mode.OFF


def test_a_vm_that_waits_for_a_migration_may_take_it_plainly() -> None:
    plain, postcopy = incoming_forecasts(Machine.of(devices=[GPU], runstate="inmigrate").facts, Policy())
    assert (plain.way, plain.passes) == ("incoming", Passes.YES)
    assert (postcopy.passes, postcopy.rule) == (Passes.NO, "vfio-postcopy")
    assert postcopy.qemu_check.reason == "it has no check at the start of the incoming migration"


def test_what_blocks_a_migration_out_does_not_block_one_in() -> None:
    assert incoming_forecasts(Machine.of(blockers=["the disk"]).facts, Policy())[0].passes is Passes.YES


def test_each_way_says_what_qemu_itself_would_do() -> None:
    told = [str(p.qemu_check) for p in forecasts(Machine.of(devices=[GPU]).facts, Policy())]
    assert told == ["unknown", unproven := "yes (upstream since 8.2; not proven on this VM)", unproven]
    told = [p.qemu_check.refuses.value for p in forecasts(Machine.of(devices=[VU]).facts, Policy())]
    assert told == ["no", "no", "no"]
    assert forecasts(Machine.of(blockers=["the disk"]).facts, Policy())[0].qemu_check.refuses.value == "yes"


@pytest.mark.parametrize(
    ("facts", "out", "into"),
    [
        (Machine.of(), "", "it was not started with -incoming, or has arrived"),
        (Machine.of(migration="completed"), "", "it was not started with -incoming, or has arrived"),
        (Machine.of(runstate="inmigrate"), "it waits for a migration to come", ""),
        (Machine.of(runstate="postmigrate", migration="completed"), "it has migrated away", None),
        (Machine.of(migration="active"), "a migration is under way: active", None),
        (Machine(), "", "it was not started with -incoming, or has arrived"),
    ],
)
def test_why_no_migration_can_begin_now(facts: Machine, out: str, into: str | None) -> None:
    assert obstacle(facts.facts, Start.OUTGOING) == out
    assert into is None or obstacle(facts.facts, Start.INCOMING) == into


def test_what_a_client_names_at_length_is_told_in_short() -> None:
    problem = Problem("x" * 5000, "short", ("y" * 5000, "z"))
    assert (len(problem.refusal), problem.fix) == (MAX_TEXT, "short")
    assert [len(device) for device in problem.devices] == [MAX_TEXT, 1]


OLD, NEW = (7, 2, 22), (11, 1, 3)


@pytest.mark.parametrize(
    ("machine", "snapshot", "cpr", "colo"),
    [
        (Machine.of(version=NEW), "yes", "yes", "yes"),
        (Machine.of(version=NEW, parameters={"mode": "cpr-exec"}), "snapshot-cpr", "yes", "yes"),
        (Machine.of(version=OLD, capabilities=["multifd"]), "snapshot-multifd", "yes", "yes"),
        (Machine.of(version=NEW, capabilities=["multifd"]), "QEMU", "yes", "yes"),
        (Machine.of(version=NEW, devices=[GPU]), "yes", "QEMU", "vfio-colo"),
        (Machine.of(version=NEW, devices=[GPU], runstate="suspended"), "yes", "yes", "vfio-colo"),
        (Machine.of(version=NEW, devices=[VU]), "vfio-state-lost", "vfio-state-lost", "vfio-colo"),
        (Machine.of(version=NEW, blockers=["the disk"]), "QEMU", "yes", "QEMU"),
        (Machine.of(version=NEW, capabilities=["postcopy-ram", "x-colo"]), "yes", "yes", "yes"),
    ],
)
def test_snapshots_cpr_and_colo_are_told_apart(machine: Machine, snapshot: str, cpr: str, colo: str) -> None:
    told = [
        p.rule or ("QEMU" if "QEMU itself" in p.reason else p.passes.value) for p in others(machine.facts, Policy())
    ]
    assert told == [snapshot, cpr, colo]


def test_what_is_told_apart_is_unknown_where_nothing_was_asked() -> None:
    assert {p.passes for p in others(Facts(), Policy())} == {Passes.UNKNOWN}


def test_a_qemu_without_modes_has_no_cpr() -> None:
    assert lacks_cpr(Machine.of(parameters={"mode": "normal"}).facts) == lacks_cpr(Facts()) == ""
    assert lacks_cpr(Machine.of().facts) == "this QEMU has no CPR"


def test_the_ways_to_migrate_are_those_of_mode_normal() -> None:
    orphan = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id="nobody")
    known = Machine.of(devices=[orphan], parameters={"mode": "cpr-exec"}).facts
    assert forecasts(known, Policy())[0].rule == "vfio-state-lost"
