"""Snapshots to disk, and memory that is left out: what is refused in which mode, and what is asked for it."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.bursts import Missing, Unexpected
from qmpguard.policy.device import Device
from qmpguard.policy.facts import Fact, Facts, numbers
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import Start
from qmpguard.policy.mode import Profile
from qmpguard.policy.operations import StartMigration
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read
from qmpguard.policy.survey import inquire, observe
from tests.policy.test_survey import World

OLD, NEW = (7, 2, 22), (11, 1, 3)
USER = Device("/machine/peripheral/vu0", "vfio-user-pci", "vu0")
ORPHAN = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id="nobody")
SNAPSHOTS = [
    ("snapshot-save", {"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]}),
    ("snapshot-load", {"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]}),
    ("human-monitor-command", {"command-line": "savevm now"}),
    ("human-monitor-command", {"command-line": "loadvm now"}),
]
REMOTE, LOCAL = ("migrate", {"uri": "tcp:other:4444"}), ("migrate", {"uri": "exec:cat > template"})


def said(request: tuple[str, dict[str, Any]], machine: Machine, profile: Profile = Profile.STANDARD) -> list[str]:
    """What is found, with a bracket around what only warns."""
    policy = Policy(profile=profile)
    operation = read(*request, policy)
    assert isinstance(operation, StartMigration)
    found = judge(operation, machine, policy)
    return [f.rule if f.mode.value == "enforce" else f"({f.rule})" for f in found.findings]


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("request_", SNAPSHOTS)
@pytest.mark.parametrize(
    ("machine", "rules"),
    [
        (Machine.of(), []),
        (Machine.of(version=NEW, parameters={"mode": "normal"}), []),
        *(
            (Machine.of(version=NEW, runstate=r), [])
            for r in ("running", "paused", "prelaunch", "suspended", "io-error")
        ),
        (Machine.of(version=OLD), []),
        *((Machine.of(version=NEW, parameters={"mode": m}), ["snapshot-cpr"]) for m in ("cpr-exec", "cpr-transfer")),
        (Machine.of(version=NEW, parameters={"mode": "cpr-reboot"}), ["snapshot-cpr"]),
        (Machine.of(version=NEW, parameters={"mode": "cpr-luo"}), ["snapshot-cpr"]),  # of a coming QEMU
        (Machine.of(parameters={"mode": "cpr-exec"}), ["snapshot-cpr"]),  # its version is not known
        (Machine.of(version=OLD, capabilities=["multifd"]), ["snapshot-multifd"]),
        (Machine.of(version=(10, 1, 9), capabilities=["multifd"]), ["snapshot-multifd"]),
        (Machine.of(capabilities=["multifd"]), ["snapshot-multifd"]),
        (Machine.of(version=(10, 2, 0), capabilities=["multifd"]), []),  # it refuses by itself
        (Machine.of(version=NEW, capabilities=["x-ignore-shared"]), []),
        # neither capability harms a snapshot to disk
        (Machine.of(version=NEW, capabilities=["postcopy-ram", "x-colo"]), []),
        (Machine.of(version=NEW, capabilities=["background-snapshot"], runstate="prelaunch"), []),
        (Machine.of(version=NEW, standbys=["net0"], capabilities=["postcopy-ram"]), []),
        (Machine.of(version=NEW, devices=[USER]), ["(vfio-state-lost)"]),
        (Machine.of(version=NEW, devices=[ORPHAN]), ["(vfio-state-lost)"]),
    ],
)
def test_a_snapshot_to_disk(request_: Any, machine: Machine, rules: list[str], profile: Profile) -> None:
    assert said(request_, machine, profile) == rules


@pytest.mark.parametrize(
    ("request_", "rules"),
    [
        (SNAPSHOTS[0], ["ignore-shared"]),
        (SNAPSHOTS[1], []),
        (SNAPSHOTS[2], ["ignore-shared"]),
        (REMOTE, ["(ignore-shared)"]),
        (LOCAL, []),
        (("migrate", {"uri": "unix:/run/kata/template"}), []),
        (("migrate", {"uri": "fd:template"}), []),
        (("migrate", {"uri": "file:/template"}), []),
        (("migrate", {"uri": "tcp:127.0.0.1:4"}), []),
        (("migrate", {"uri": "tcp::4444"}), []),
        (("migrate-incoming", {"uri": "tcp:0:4444"}), []),
    ],
)
def test_shared_memory_that_is_ignored(request_: Any, rules: list[str]) -> None:
    machine = Machine.of(version=NEW, capabilities=["x-ignore-shared"], shared_memory=["ram0"])
    assert said(request_, machine) == rules
    assert said(request_, Machine.of(version=NEW, capabilities=["x-ignore-shared"])) == []
    assert said(request_, Machine.of(version=NEW, shared_memory=["ram0"])) == []


@pytest.mark.parametrize("start", [Start.OUTGOING, Start.INCOMING])
@pytest.mark.parametrize(
    ("device", "mode", "lost"),
    [
        (ORPHAN, None, True),
        (ORPHAN, "normal", True),
        (ORPHAN, "cpr-reboot", True),
        (ORPHAN, "cpr-transfer", False),
        (ORPHAN, "cpr-exec", False),
        (USER, "cpr-transfer", True),
        (USER, "cpr-exec", True),
    ],
)
def test_what_cpr_preserves_is_not_lost(start: Start, device: Device, mode: str | None, lost: bool) -> None:
    machine = Machine.of(devices=[device], parameters={} if mode is None else {"mode": mode})
    found = judge(StartMigration(start), machine, Policy())
    assert [f.rule for f in found.findings] == (["vfio-state-lost"] if lost else [])


def asked(request: tuple[str, dict[str, Any]], world: World, version: tuple[int, ...] | None) -> list[str]:
    operation = read(*request, Policy())
    assert isinstance(operation, StartMigration)
    world.drive(inquire(operation, Policy(), Facts(version=version)))
    return world.asked


MODE, ON, LIST = "query-migrate-parameters", "query-migrate-capabilities", "qom-list"


@pytest.mark.parametrize(
    ("request_", "version", "questions"),
    [
        (REMOTE, NEW, [ON, LIST, LIST]),  # as before there were these rules
        (LOCAL, OLD, [ON, LIST, LIST]),
        (("migrate-incoming", {"uri": "defer"}), None, [ON, LIST, LIST]),
        (("migrate-start-postcopy", {}), None, [ON]),
        (SNAPSHOTS[0], NEW, [MODE, ON, LIST, LIST]),
        (SNAPSHOTS[1], NEW, [MODE, LIST, LIST]),
        (SNAPSHOTS[1], OLD, [ON, LIST, LIST]),
        (SNAPSHOTS[0], None, [MODE, ON, LIST, LIST]),
    ],
)
def test_nothing_is_asked_that_no_rule_needs(request_: Any, version: Any, questions: list[str]) -> None:
    assert asked(request_, World(query_migrate_parameters={"mode": "normal"}), version) == questions


def test_shared_memory_is_asked_for_only_where_it_is_ignored() -> None:
    memory = [{"id": "ram0", "share": True, "size": 1}, {"share": True}, {"id": "ram1", "share": False}]
    world = World("x-ignore-shared", query_memdev=memory)
    world.answers[ON].append({"capability": "x-ignore-shared", "state": True})
    assert asked(REMOTE, world, NEW) == [ON, LIST, LIST, "query-memdev"]
    assert world.observe(Facts(), Fact.SHARED).shared_memory == ("ram0", "memory")


@pytest.mark.parametrize("command", ["query-migrate-parameters", "query-memdev"])
@pytest.mark.parametrize("answer", [5, [{}], [5], Missing()])
def test_an_answer_of_another_form_is_unexpected(command: str, answer: Any) -> None:
    world = World(**{command: answer})
    fact = Fact.SHARED if command == "query-memdev" else Fact.PARAMETERS
    with pytest.raises(Unexpected):
        world.drive(observe(Policy(), wanted=(fact,)))


@pytest.mark.parametrize(
    ("text", "version"), [("11.1.3", NEW), ("7.2.22", OLD), ("?", None), ("", None), ("1.x.2", None), ("²", None)]
)
def test_a_version_is_compared_by_its_numbers(text: str, version: tuple[int, ...] | None) -> None:
    assert numbers(text) == version


def test_a_refusal_says_the_mode_and_what_helps() -> None:
    verdict = judge(StartMigration(Start.SAVE), Machine.of(parameters={"mode": "cpr-exec"}), Policy())
    assert verdict.refusal is not None
    assert verdict.refusal.text() == (
        "Snapshots are not possible in migration mode 'cpr-exec': QEMU would leave out the memory (qmpguard: rule "
        "snapshot-cpr, parameter mode is cpr-exec; set mode to normal with migrate-set-parameters first)"
    )
