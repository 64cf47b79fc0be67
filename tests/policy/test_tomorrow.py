"""A QEMU that is not there yet: whatever is new in it is known, or said to be unverified, and never misread.

Its schema is a recorded one with a capability, a parameter, an argument and a channel more. Its capabilities are
parameters as well; the commands that they had are hidden (`-compat deprecated-input=reject,deprecated-output=hide`).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from qmpguard.policy.bursts import Missing, Unexpected
from qmpguard.policy.facts import Fact, Facts
from qmpguard.policy.forecast import obstacle
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import DANGEROUS, Start
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read, unknown_arguments
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.schema import CAPABILITIES, Schema, read_schema
from tests.policy.test_rules import WITH_GPU
from tests.policy.test_survey import DEVICES, World
from tests.support.replay import TRANSCRIPTS

TODAY = json.loads((TRANSCRIPTS / "arguments.json").read_text())["11.1.2"]
NEW_CAPABILITY, NEW_PARAMETER = "x-of-tomorrow", "local"
TOMORROW = Schema(
    {command: frozenset(arguments) for command, arguments in TODAY.items()}
    | {
        "migrate-set-parameters": frozenset(TODAY["migrate-set-parameters"])
        | CAPABILITIES
        | {NEW_CAPABILITY, NEW_PARAMETER},
        "migrate": frozenset(TODAY["migrate"]) | {"config"},
    },
    CAPABILITIES | {NEW_CAPABILITY},
)
HIDDEN = {"query_migrate_capabilities": Missing()}
OFF: dict[str, Any] = dict.fromkeys(DANGEROUS, False) | {"mode": "normal", "downtime-limit": 300}


def reads(command: str, **arguments: Any) -> Any:
    return read(command, arguments, Policy(), TOMORROW)


def test_what_is_new_and_unread_is_told_when_the_schema_is_read() -> None:
    assert unknown_arguments(TOMORROW) == [("migrate-set-parameters", NEW_PARAMETER), ("migrate", "config")]


@pytest.mark.parametrize("name", sorted(TOMORROW.capabilities))
def test_every_capability_of_the_schema_is_a_parameter(name: str) -> None:
    assert isinstance(reads("migrate-set-parameters", **{name: False}), Harmless)
    on = reads("migrate-set-parameters", **{name: True})
    rules = [] if isinstance(on, Harmless) else [f.rule for f in judge(on, WITH_GPU, Policy()).findings]
    expected = {
        "postcopy-ram": ["vfio-postcopy"],
        "background-snapshot": ["vfio-background-snapshot"],
        "x-colo": ["vfio-colo"],
    }
    assert rules == expected.get(name, [])


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("migrate-set-parameters", {NEW_PARAMETER: True}),
        ("migrate-set-parameters", {"postcopy-ram": "on"}),
        ("migrate", {"uri": "tcp:h:1", "config": {"postcopy-ram": True}}),
        ("migrate-incoming", {"uri": "tcp:h:1", "config": {}}),
        ("migrate-start-postcopy", {"now": True}),
        ("snapshot-save", {"job-id": "j", "mode": "x"}),
        ("human-monitor-command", {"command-line": "migrate -c unix:/a unix:/b"}),
    ],
)
def test_what_nobody_here_knows_is_unverified(command: str, arguments: dict[str, Any]) -> None:
    assert isinstance(reads(command, **arguments), Unreadable)


@pytest.mark.parametrize(
    "arguments",
    [
        {"uri": "memfd:7"},
        {"uri": "local:/x"},
        {"channels": [{"channel-type": "of-tomorrow", "addr": {"transport": "memfd"}}]},
        {"channels": [{"addr": {"transport": "socket", "host": 5}}]},
    ],
)
def test_a_new_kind_of_target_is_judged_like_every_other(arguments: dict[str, Any]) -> None:
    machine = Machine.of(capabilities=["postcopy-ram"], devices=WITH_GPU.devices)
    assert [f.rule for f in judge(reads("migrate", **arguments), machine, Policy()).findings] == ["vfio-postcopy"]


def test_a_new_mode_of_cpr_is_none_in_which_a_snapshot_is_whole() -> None:
    save = reads("snapshot-save", **{"job-id": "j", "tag": "t", "vmstate": "v", "devices": []})
    machine = Machine.of(parameters={"mode": "cpr-luo"})
    assert [f.rule for f in judge(save, machine, Policy()).findings] == ["snapshot-cpr"]


@pytest.mark.parametrize("status", ["failing", "postcopy-device", "of-tomorrow"])
def test_a_new_status_is_a_migration_that_is_under_way(status: str) -> None:
    assert obstacle(Machine.of(migration=status).facts, Start.OUTGOING) == f"a migration is under way: {status}"


@pytest.mark.parametrize("answer", [Missing(), [], [{"capability": "events", "state": True}]])
def test_capabilities_are_read_from_the_parameters_where_they_are_hidden(answer: Any) -> None:
    on = OFF | {"postcopy-ram": True}
    world = World(query_migrate_capabilities=answer, query_migrate_parameters=on)
    capabilities = world.observe(Facts(), Fact.CAPABILITIES).capabilities
    assert capabilities is not None
    assert capabilities >= {"postcopy-ram"}
    assert "background-snapshot" not in capabilities
    world.folders = DEVICES
    refusal = world.judge("migrate", {"uri": "tcp:h:1"}).refusal
    assert refusal is not None
    assert refusal.rule == "vfio-postcopy"


@pytest.mark.parametrize("parameters", [{}, {"postcopy-ram": True}, dict.fromkeys(DANGEROUS, "off")])
def test_a_capability_that_nothing_shows_is_never_taken_for_off(parameters: dict[str, Any]) -> None:
    world = World(query_migrate_capabilities=Missing(), query_migrate_parameters=parameters)
    with pytest.raises(Unexpected, match="query-migrate-capabilities"):
        world.judge("migrate", {"uri": "tcp:h:1"})


def test_capabilities_are_found_in_a_schema_by_the_command_that_takes_them() -> None:
    schema: list[Any] = [
        {"name": "migrate-set-capabilities", "meta-type": "command", "arg-type": "1"},
        {"name": "1", "meta-type": "object", "members": [{"name": "capabilities", "type": "[2]"}]},
        {"name": "[2]", "meta-type": "array", "element-type": "2"},
        {
            "name": "2",
            "meta-type": "object",
            "members": [{"name": "state", "type": "bool"}, {"name": "capability", "type": "3"}],
        },
        {"name": "3", "meta-type": "enum", "values": ["events", NEW_CAPABILITY], "members": []},
    ]
    assert read_schema(schema).capabilities == {"events", NEW_CAPABILITY}
    for missing in range(1, 5):
        assert read_schema(schema[:missing]).capabilities == frozenset()
    assert read_schema([]).capabilities == frozenset()
