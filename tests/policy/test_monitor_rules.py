"""The rules about monitors: another one, a changed one, and QEMU turned against its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qmpguard.policy.facts import Fact, Unknown
from qmpguard.policy.machine import Machine
from qmpguard.policy.monitor_rules import monitor_object, new_monitor, own_socket
from qmpguard.policy.policy import Policy
from qmpguard.policy.problem import Problem

EMPTY = Machine.of()


def text(problem: Problem | None) -> str:
    return "" if problem is None else problem.refusal


def test_another_monitor_is_a_way_around() -> None:
    assert new_monitor(EMPTY, Policy()) is None
    opened = replace(EMPTY, new_monitor="gdbserver")
    assert text(new_monitor(opened, Policy())) == "gdbserver would open a way around the guard"


@pytest.mark.parametrize(("kind", "counts"), [("monitor-qmp", True), ("monitor-hmp", True), ("rng-builtin", False)])
def test_a_change_counts_where_the_object_is_a_monitor(kind: str, counts: bool) -> None:
    changed = replace(Machine.of(changed_type=kind), monitor_change="object-del of 'm'")
    assert (monitor_object(changed, Policy()) is not None) is counts
    assert monitor_object(Machine.of(changed_type=kind), Policy()) is None


def test_an_address_counts_where_a_socket_has_it() -> None:
    listening = Machine.of(sockets=["qmp.sock"])
    assert own_socket(listening, Policy()) is None
    assert "'qmp.sock'" in text(own_socket(replace(listening, addresses=("/a/qmp.sock",)), Policy()))
    assert own_socket(replace(listening, addresses=("/a/other.sock",)), Policy()) is None
    with pytest.raises(Unknown) as unknown:
        own_socket(Machine(addresses=("/a/other.sock",)), Policy())
    assert unknown.value.facts == (Fact.SOCKETS,)


@pytest.mark.parametrize("machine", [Machine(), replace(EMPTY, addresses=("/a",))], ids=["unknown", "known"])
def test_a_number_counts_and_qemu_is_asked_nothing(machine: Machine) -> None:
    problem = own_socket(replace(machine, numbered="vhostfd"), Policy())
    assert problem is not None
    assert "'vhostfd'" in problem.refusal
    assert "getfd" in problem.fix


def test_what_cuts_the_monitor_off_counts() -> None:
    problem = own_socket(replace(Machine(), turned_against_monitor="yank"), Policy())
    assert text(problem) == "yank would turn QEMU against its own monitor"
