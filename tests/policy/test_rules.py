"""The specification: a request, a machine, and what becomes of it. To be read and extended by people who know QEMU."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts, Unknown
from qmpguard.policy.judgment import concerns, judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.operations import CallUnlisted, OpenMonitor, SetCapabilities, WriteHmp
from qmpguard.policy.policy import Policy, Rule
from qmpguard.policy.problem import Finding
from qmpguard.policy.readers import READERS
from qmpguard.policy.readers import read as read_with
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.rules import RULES, documentation, passes_unjudged, table, unverified_mode
from qmpguard.policy.verdict import unverified

GPU = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", host="0000:65:00.0")
NIC = Device("/machine/peripheral/nic0", "vfio-pci", "nic0", sysfsdev="/sys/bus/pci/devices/0000:b1:00.2/")
ANON = Device("/machine/peripheral-anon/device[0]", "vfio-ap")
FS = Device("/machine/peripheral/fs0", "vhost-user-fs-pci", "fs0")
VDPA = Device("/machine/peripheral/vd0", "vhost-vdpa-device-pci", "vd0")
USER = Device("/machine/peripheral/vu0", "vfio-user-pci", "vu0")

EMPTY = Machine.of()
STRICT = Policy(profile=Profile.STRICT)
WITH_GPU = Machine.of(devices=[GPU])
POSTCOPY = Machine.of(capabilities=["postcopy-ram"])
SNAPSHOT = Machine.of(capabilities=["background-snapshot"])
BOTH = Machine.of(capabilities=["postcopy-ram"], devices=[GPU])


def caps(*states: tuple[str, bool]) -> tuple[str, dict[str, Any]]:
    return "migrate-set-capabilities", {"capabilities": [{"capability": c, "state": s} for c, s in states]}


def plug(driver: str = "vfio-pci", **arguments: Any) -> tuple[str, dict[str, Any]]:
    return "device_add", {"driver": driver, "id": "hp0", **arguments}


def read(command: str, arguments: dict[str, Any], policy: Policy | None = None) -> Any:
    return read_with(command, arguments, policy or Policy())


LEFT_ON = ["postcopy-ram"]
MIGRATE = ("migrate", {"uri": "tcp:host:4444"})
SAVE = ("snapshot-save", {"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]})
ON, OFF = ("postcopy-ram", True), ("postcopy-ram", False)
SNAP = ("background-snapshot", True)
COLO = ("x-colo", True)

#: (command and arguments, machine, the rule that refuses or None)
TABLE: list[tuple[tuple[str, dict[str, Any]], Machine, str | None]] = [
    (caps(ON), EMPTY, None),
    (caps(ON), WITH_GPU, "vfio-postcopy"),
    (caps(SNAP), WITH_GPU, "vfio-background-snapshot"),
    (caps(OFF), BOTH, None),
    (caps(OFF, ON), WITH_GPU, "vfio-postcopy"),  # the last entry wins
    (caps(ON, OFF), WITH_GPU, None),
    (caps(("dirty-bitmaps", True), ("xbzrle", True)), WITH_GPU, None),
    (caps(("Postcopy-ram", True)), WITH_GPU, None),  # QEMU answers that there is no such capability
    (caps(ON), BOTH, None),  # nothing gets worse by it
    (caps(SNAP), BOTH, "vfio-background-snapshot"),
    (caps(ON), Machine.of(devices=[ANON]), "vfio-postcopy"),
    (caps(ON), Machine.of(devices=[USER]), "vfio-postcopy"),
    (MIGRATE, EMPTY, None),
    (MIGRATE, WITH_GPU, None),
    (MIGRATE, POSTCOPY, None),
    (MIGRATE, BOTH, "vfio-postcopy"),  # set behind the guard's back
    (MIGRATE, Machine.of(capabilities=["background-snapshot"], devices=[NIC]), "vfio-background-snapshot"),
    (("migrate", {"channels": [{"channel-type": "main"}]}), BOTH, "vfio-postcopy"),
    (("migrate", {"uri": "x", "resume": False}), BOTH, "vfio-postcopy"),
    (("migrate", {"uri": "x", "resume": True}), BOTH, None),  # a postcopy that is under way must go on
    (plug(), EMPTY, None),
    (plug(), POSTCOPY, "vfio-postcopy"),
    (plug(), SNAPSHOT, "vfio-background-snapshot"),
    (plug("e1000e"), POSTCOPY, None),
    (plug("vfio-pci-igd-lpc-bridge"), POSTCOPY, None),
    (plug("vfio-something-new"), POSTCOPY, "vfio-postcopy"),
    (plug("vfio-user-pci"), POSTCOPY, "vfio-postcopy"),
    (plug(), Machine.of(capabilities=["postcopy-ram"], runstate="inmigrate"), "vfio-postcopy"),
    (plug(), Machine.of(capabilities=["postcopy-ram"], migration="active"), "vfio-postcopy"),
    (plug(), Machine.of(capabilities=["postcopy-ram"], left_on=LEFT_ON, migration="completed"), None),
    (plug(), Machine.of(capabilities=["postcopy-ram"], migration="completed"), "vfio-postcopy"),  # switched on since
    (plug(), Machine.of(capabilities=["postcopy-ram"], left_on=LEFT_ON, migration="active"), "vfio-postcopy"),
    (plug(), Machine.of(capabilities=["postcopy-ram"], left_on=LEFT_ON, runstate="inmigrate"), "vfio-postcopy"),
    (plug(), Machine.of(capabilities=["background-snapshot"], left_on=LEFT_ON), "vfio-background-snapshot"),
]


@pytest.mark.parametrize(("request_", "machine", "rule"), TABLE)
def test_the_table(request_: tuple[str, dict[str, Any]], machine: Machine, rule: str | None) -> None:
    operation = read(*request_)
    if isinstance(operation, Harmless):
        assert rule is None
        return
    assert operation is not None
    assert not isinstance(operation, Unreadable)
    refusal = judge(operation, machine, Policy()).refusal
    assert (refusal and refusal.rule) == rule


@pytest.mark.parametrize("command", ["query-status", "cont", "device_del", "snapshot-delete"])
def test_what_is_not_in_the_table_is_not_intercepted(command: str) -> None:
    assert read(command, {}) is None


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("migrate-set-capabilities", {}),
        ("migrate-set-capabilities", {"capabilities": {}}),
        ("migrate-set-capabilities", {"capabilities": [1]}),
        ("migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-ram", "state": 1}]}),
        ("migrate-set-capabilities", {"capabilities": [{"capability": "x", "state": True, "more": 1}]}),
        ("migrate-set-capabilities", {"capabilities": [], "more": 1}),
        ("migrate", {"uri": "x", "config": {}}),
        ("migrate", {"uri": "x", "resume": "yes"}),
        ("device_add", {}),
        ("device_add", {"driver": ["vfio-pci"]}),
    ],
)
def test_what_cannot_be_read_is_said_to_be_so(command: str, arguments: dict[str, Any]) -> None:
    reading = read(command, arguments)
    assert isinstance(reading, Unreadable)
    assert reading.reason


def text_of(command: str, arguments: dict[str, Any], machine: Machine) -> str:
    operation = read(command, arguments)
    assert operation is not None
    assert not isinstance(operation, Harmless | Unreadable)
    refusal = judge(operation, machine, Policy()).refusal
    return refusal.text() if refusal else ""


def test_a_refusal_begins_with_qemus_own_sentence_and_says_device_capability_and_fix() -> None:
    assert text_of(*caps(ON), WITH_GPU) == (
        "0000:65:00.0: VFIO migration is not supported with postcopy migration "
        "(qmpguard: rule vfio-postcopy, device 'gpu0', capability postcopy-ram is on; "
        "turn it off with migrate-set-capabilities, or unplug the device)"
    )


def test_a_refusal_that_concerns_no_device_says_the_rule_and_the_fix() -> None:
    assert text_of("object-add", {"qom-type": "monitor-qmp"}, EMPTY) == (
        "object-add of 'monitor-qmp' would open a way around the guard "
        "(qmpguard: rule new-monitor; connect to the guard's own socket)"
    )
    machine = Machine.of(capabilities=["background-snapshot"], runstate="prelaunch")
    assert "(qmpguard: rule snapshot-runstate, capability background-snapshot is on; " in text_of(*MIGRATE, machine)


def test_several_devices_are_all_named() -> None:
    text = text_of(*caps(SNAP), Machine.of(devices=[GPU, NIC]))
    assert text.startswith("0000:65:00.0: VFIO migration is not supported with background snapshot (")
    assert "devices 'gpu0', 'nic0'" in text


def test_on_an_incoming_machine_the_fix_is_to_plug_later() -> None:
    machine = Machine.of(capabilities=["postcopy-ram"], runstate="inmigrate")
    assert "after the migration has completed" in text_of(*plug(host="65:00.0"), machine)
    assert text_of(*plug(host="65:00.0"), machine).startswith("0000:65:00.0: ")


@pytest.mark.parametrize("request_", [caps(ON), plug(), MIGRATE], ids=str)
def test_while_a_migration_runs_only_its_end_helps(request_: tuple[str, dict[str, Any]]) -> None:
    devices = [] if request_[0] == "device_add" else [GPU]
    lit = [] if request_[0] == "migrate-set-capabilities" else ["postcopy-ram"]
    text = text_of(*request_, Machine.of(devices=devices, capabilities=lit, migration="active"))
    assert "; a migration is under way: cancel it with migrate_cancel, or try again when it has ended)" in text


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (GPU, "0000:65:00.0"),
        (NIC, "0000:b1:00.2"),
        (ANON, "/machine/peripheral-anon/device[0]"),
        (USER, "vu0"),
        (Device("/p", "vfio-pci", "m", host="ffff:ff:ff.f"), "m"),
        (Device("/p", "vfio-pci", "m", host="65:00.0"), "0000:65:00.0"),
        (Device("/p", "vfio-pci", "m", host="ffff:ff:ff.f", sysfsdev="/sys/x/83b8f4f2-509f"), "83b8f4f2-509f"),
    ],
)
def test_a_device_has_the_name_that_qemu_would_give_it(device: Device, name: str) -> None:
    assert device.name == name


def test_a_migration_that_loses_a_vfio_user_device_is_warned_of() -> None:
    operation = read(*MIGRATE)
    assert operation is not None
    assert not isinstance(operation, Harmless | Unreadable)
    verdict = judge(operation, Machine.of(devices=[GPU, USER]), Policy())
    assert verdict.refusal is None
    assert [(f.rule, f.problem.devices) for f in verdict.warnings] == [("vfio-state-lost", ("vu0",))]


def test_a_leftover_capability_is_only_warned_of() -> None:
    operation = read(*plug())
    assert operation is not None
    assert not isinstance(operation, Harmless | Unreadable)
    machine = Machine.of(capabilities=["postcopy-ram"], left_on=["postcopy-ram"], migration="failed")
    assert [f.rule for f in judge(operation, machine, Policy()).warnings] == ["vfio-postcopy"]
    assert judge(operation, machine, STRICT).refusal is not None


@pytest.mark.parametrize(
    ("overall", "own", "effective"),
    [
        (Mode.ENFORCE, None, Mode.ENFORCE),
        (Mode.ENFORCE, Mode.WARN, Mode.WARN),
        (Mode.WARN, Mode.ENFORCE, Mode.WARN),
        (Mode.ENFORCE, Mode.OFF, Mode.OFF),
        (Mode.OFF, Mode.ENFORCE, Mode.OFF),
    ],
)
def test_the_weaker_mode_holds(overall: Mode, own: Mode | None, effective: Mode) -> None:
    policy = Policy(overall, rules={} if own is None else {"vfio-postcopy": own})
    operation = read(*caps(ON))
    assert operation is not None
    assert not isinstance(operation, Harmless | Unreadable)
    verdict = judge(operation, WITH_GPU, policy)
    assert [f.mode for f in verdict.findings] == ([] if effective is Mode.OFF else [effective])
    assert (verdict.refusal is not None) == (effective is Mode.ENFORCE)


def findings(request: tuple[str, dict[str, Any]], machine: Machine, policy: Policy | None = None) -> list[Finding]:
    operation = CallUnlisted(request[0]) if request[0].startswith("__") else read(*request, policy)
    assert operation is not None
    assert not isinstance(operation, Harmless | Unreadable)
    return list(judge(operation, machine, policy or Policy()).findings)


WIDE = "Multiple VFIO devices migration is supported only if all of them support P2P migration"


@pytest.mark.parametrize("blocker", [WIDE, f"0000:65:00.0: {WIDE}."])
def test_a_device_with_migration_forced_on_is_refused_where_vfio_as_a_whole_blocks_migration(blocker: str) -> None:
    (finding,) = findings(plug(**{"enable-migration": "on"}), Machine.of(blockers=["disk", blocker]))
    assert (finding.rule, finding.mode) == ("vfio-blocked", Mode.ENFORCE)
    assert finding.problem.refusal == blocker


def test_another_blocker_is_only_warned_of_and_without_force_none_counts() -> None:
    (finding,) = findings(plug(**{"enable-migration": "on"}), Machine.of(blockers=["The disk does not migrate"]))
    assert (finding.rule, finding.mode) == ("vfio-blocked", Mode.WARN)
    assert findings(plug(**{"enable-migration": "on"}), EMPTY) == []
    assert findings(plug(**{"enable-migration": "auto"}), Machine.of(blockers=[WIDE])) == []


PRIMARY = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id="net0")


@pytest.mark.parametrize(
    ("machine", "allowed", "rules"),
    [
        (Machine.of(devices=[PRIMARY], standbys=["net0"]), False, ["vfio-postcopy"]),  # a warning
        (Machine.of(devices=[PRIMARY], standbys=["net0"]), True, []),
        (Machine.of(devices=[PRIMARY], standbys=["net1"]), True, ["vfio-postcopy"]),  # it answers to nobody
        (Machine.of(devices=[GPU, PRIMARY], standbys=["net0"]), True, ["vfio-postcopy"]),
        (Machine.of(hidden=[PRIMARY], standbys=["net0"]), False, ["vfio-postcopy"]),  # only the guard remembers it
        (Machine.of(hidden=[PRIMARY], standbys=["net0"]), True, []),
        (Machine.of(standbys=["net0"]), False, ["hidden-primary"]),
        (Machine.of(standbys=["net0"]), True, []),
        (Machine.of(devices=[PRIMARY], standbys=["net0", "net1"]), False, ["vfio-postcopy", "hidden-primary"]),
    ],
)
def test_failover_pairs(machine: Machine, allowed: bool, rules: list[str]) -> None:
    assert [f.rule for f in findings(caps(ON), machine, Policy(allow_failover_primary=allowed))] == rules


@pytest.mark.parametrize(
    ("pair", "standbys", "lost"), [("bogus", [], True), ("net0", ["net0"], False), (None, [], False)]
)
def test_a_primary_that_answers_to_nobody_loses_its_state(pair: str | None, standbys: list[str], lost: bool) -> None:
    device = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id=pair)
    rules = [f.rule for f in findings(MIGRATE, Machine.of(devices=[device], standbys=standbys))]
    assert rules == (["vfio-state-lost"] if lost else [])


@pytest.mark.parametrize(
    ("runstate", "refused"), [("running", False), ("paused", False), ("suspended", False), ("prelaunch", True)]
)
def test_a_snapshot_needs_a_run_state_to_pause_from(runstate: str, refused: bool) -> None:
    machine = Machine.of(capabilities=["background-snapshot"], runstate=runstate)
    assert [f.rule for f in findings(MIGRATE, machine)] == (["snapshot-runstate"] if refused else [])


def test_a_property_counts_on_a_vfio_device_and_in_profile_strict_on_all() -> None:
    request = ("qom-set", {"path": "gpu0", "property": "realized", "value": False})
    assert [f.rule for f in findings(request, Machine.of(changed_type="vfio-pci"))] == ["vfio-property"]
    assert findings(request, Machine.of(changed_type="e1000e")) == []
    assert findings(request, Machine.of()) == []
    assert [f.rule for f in findings(request, Machine.of(), STRICT)] == ["vfio-property"]


#: for each rule, a request and a machine that make it fail
FAILING: dict[str, tuple[tuple[str, dict[str, Any]], Machine]] = {
    "vfio-postcopy": (caps(ON), WITH_GPU),
    "vfio-background-snapshot": (caps(SNAP), WITH_GPU),
    "vfio-colo": (caps(COLO), WITH_GPU),
    "snapshot-foreign-dma": (caps(SNAP), Machine.of(others=[FS])),
    "vdpa-postcopy": (caps(ON), Machine.of(others=[VDPA])),
    "snapshot-cpr": (SAVE, Machine.of(parameters={"mode": "cpr-exec"})),
    "snapshot-multifd": (SAVE, Machine.of(capabilities=["multifd"], version=(7, 2, 22))),
    "ignore-shared": (SAVE, Machine.of(capabilities=["x-ignore-shared"], shared_memory=["ram0"])),
    "vfio-blocked": (plug(**{"enable-migration": "on"}), Machine.of(blockers=[WIDE])),
    "snapshot-runstate": (MIGRATE, Machine.of(capabilities=["background-snapshot"], runstate="prelaunch")),
    "vfio-state-lost": (MIGRATE, Machine.of(devices=[USER])),
    "qemu-crash": (("qom-list-properties", {"typename": "colo-compare"}), Machine.of(version=(7, 2, 22))),
    "new-monitor": (("object-add", {"qom-type": "monitor-qmp", "id": "m"}), EMPTY),
    "monitor-object": (("object-del", {"id": "compat_monitor0"}), Machine.of(changed_type="monitor-qmp")),
    "own-socket": (("chardev-add", {"id": "c", "path": "/run/qmp.sock"}), Machine.of(sockets=["qmp.sock"])),
    "vfio-property": (("qom-set", {"path": "g", "property": "realized"}), Machine.of(changed_type="vfio-pci")),
    "hidden-primary": (caps(ON), Machine.of(standbys=["net0"])),
    "hmp-write": (("human-monitor-command", {"command-line": "stop"}), EMPTY),
    "runs-program": (("migrate", {"uri": "exec:cat"}), EMPTY),
    "unknown-command": (("__nobody", {}), EMPTY),
}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_every_rule_can_be_set_to_every_mode(rule: str, mode: Mode) -> None:
    request, machine = FAILING[rule]
    found = findings(request, machine, Policy(profile=Profile.STRICT, rules={rule: mode}))
    assert [f.mode for f in found if f.rule == rule] == ([] if mode is Mode.OFF else [mode])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
@pytest.mark.parametrize("profile", list(Profile))
def test_every_rule_has_its_default_in_both_profiles(rule: Rule, profile: Profile) -> None:
    request, machine = FAILING[rule.id]
    default = rule.strict if profile is Profile.STRICT else rule.standard
    found = [f.mode for f in findings(request, machine, Policy(profile=profile)) if f.rule == rule.id]
    assert found == ([] if default is Mode.OFF else [default])


@pytest.mark.parametrize(("kind", "refused"), [("monitor-hmp", True), ("rng-builtin", False), ("", False)])
def test_only_monitors_must_stay_as_they_are(kind: str, refused: bool) -> None:
    for request in (
        ("object-del", {"id": "m"}),
        ("qom-set", {"path": "m", "property": "chardev", "value": "c"}),
        ("human-monitor-command", {"command-line": "object_del m"}),
    ):
        found = [f.rule for f in findings(request, Machine.of(changed_type=kind))]
        assert found == (["monitor-object"] if refused else [])


def test_a_command_must_stand_in_the_schema_where_that_matters() -> None:
    operation, machine = CallUnlisted("query-status"), Machine.of(commands=["query-status", "__org.example_x"])
    assert judge(operation, machine, STRICT).findings == ()
    for command in ("nonsense", "__org.example_x"):
        assert not passes_unjudged(command, machine.commands)
        assert [f.rule for f in judge(CallUnlisted(command), machine, STRICT).findings] == ["unknown-command"]


def test_what_no_rule_looks_at_is_not_judged() -> None:
    assert concerns(CallUnlisted, STRICT)
    assert not concerns(CallUnlisted, Policy())
    assert concerns(CallUnlisted, Policy(rules={"unknown-command": Mode.WARN}))
    assert not concerns(WriteHmp, Policy())
    assert not concerns(OpenMonitor, Policy(rules={"new-monitor": Mode.OFF}))
    assert concerns(SetCapabilities, Policy(rules={rule.id: Mode.OFF for rule in RULES}))


def test_unverified_can_warn_but_is_never_off() -> None:
    assert unverified_mode(Policy()) is Mode.ENFORCE
    assert unverified_mode(Policy(rules={"unverified": Mode.OFF})) is Mode.WARN
    assert unverified("QEMU is silent", Mode.ENFORCE).refusal is not None
    assert unverified("QEMU is silent", Mode.WARN).refusal is None


def test_types_that_the_configuration_adds_count_as_vfio() -> None:
    assert isinstance(read(*plug("passed-through")), Harmless)
    operation = read(*plug("passed-through"), Policy(extra_types=frozenset({"passed-through"})))
    assert operation.is_vfio


def test_reading_a_fact_that_was_not_asked_names_it() -> None:
    for name in ("capabilities", "devices", "detailed", "standbys", "runstate", "migration", "changed_type"):
        with pytest.raises(Unknown):
            getattr(Machine(), name)
    for name in ("detailed", "standbys"):
        with pytest.raises(Unknown):
            getattr(Machine(Facts(devices=())), name)
    with pytest.raises(Unknown, match="standbys"):  # gone with its standby, a hidden primary would not count
        _ = Machine(Facts(devices=(), hidden=(PRIMARY,))).devices


def test_every_rule_and_reader_explains_itself() -> None:
    for identity, standard, strict, summary in table():
        assert identity
        assert {standard, strict} <= {"enforce", "warn", "off"}
        assert summary.endswith(".")
        assert documentation()[identity].startswith(summary)
    assert len({rule.id for rule in RULES}) == len(RULES)
    for reader in READERS.values():
        assert reader.read.__doc__
