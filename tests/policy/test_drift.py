"""Drift: what counts as changed behind the guard's back."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.drift import Baseline
from qmpguard.policy.machine import Device, Facts

GPU = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0")
NOTHING = Facts(capabilities=frozenset(), devices=())
LIT = Facts(capabilities=frozenset({"postcopy-ram", "events"}), devices=())
PLUGGED = Facts(capabilities=frozenset(), devices=(GPU,))


def looks(*facts: Facts) -> list[str]:
    baseline = Baseline()
    return [str(drift) for seen in facts for drift in baseline.compare(seen, baseline.ticket)]


def test_the_first_look_finds_no_drift_and_the_same_again_neither() -> None:
    assert looks(LIT, LIT) == []


def test_a_change_is_told_once_with_before_and_after() -> None:
    assert looks(NOTHING, LIT, LIT, NOTHING) == [
        "migration capabilities: none -> events, postcopy-ram",
        "migration capabilities: events, postcopy-ram -> none",
    ]
    assert looks(NOTHING, PLUGGED) == ["devices: none -> gpu0"]


def test_a_look_that_did_not_ask_for_something_says_nothing_of_it() -> None:
    partial = Facts(capabilities=frozenset({"events"}))
    assert looks(PLUGGED, partial) == ["migration capabilities: none -> events"]
    assert looks(PLUGGED, Facts(), NOTHING) == ["devices: gpu0 -> none"]


@pytest.mark.parametrize(
    ("command", "arguments", "seen", "told"),
    [
        ("migrate-set-capabilities", {}, LIT, False),
        ("migrate-set-parameters", {}, LIT, False),
        ("device_add", {}, PLUGGED, False),
        ("device_add", {}, LIT, True),
        ("device_del", {"id": "x"}, PLUGGED, False),
        ("qom-set", {}, PLUGGED, False),
        ("human-monitor-command", {"command-line": "migrate_set_capability events on"}, LIT, False),
        ("human-monitor-command", {"command-line": "device_del gpu0"}, PLUGGED, False),
        ("human-monitor-command", {"command-line": "info status"}, LIT, True),
        ("human-monitor-command", {"command-line": "device_add"}, PLUGGED, True),  # QEMU rejects it
        ("human-monitor-command", {}, LIT, False),
        ("query-status", {}, LIT, True),
    ],
)
def test_what_a_command_through_the_guard_may_have_changed_is_no_drift(
    command: str, arguments: dict[str, Any], seen: Facts, told: bool
) -> None:
    baseline = Baseline()
    baseline.compare(NOTHING, baseline.ticket)
    baseline.begins(command, arguments)
    baseline.ends(command, arguments)
    assert bool(baseline.compare(seen, baseline.ticket)) == told


def test_what_was_seen_while_a_command_changed_something_is_not_compared() -> None:
    baseline = Baseline()
    baseline.compare(LIT, baseline.ticket)
    ticket = baseline.ticket
    baseline.begins("device_add", {})
    assert baseline.compare(NOTHING, ticket) == []
    baseline.ends("device_add", {})
    assert [str(d) for d in baseline.compare(NOTHING, baseline.ticket)] == [
        "migration capabilities: events, postcopy-ram -> none"
    ]


@pytest.mark.parametrize("asked", [True, False])
def test_a_device_that_leaves_is_drift_unless_it_was_asked_to(asked: bool) -> None:
    baseline = Baseline()
    if asked:
        baseline.begins("device_del", {"id": "gpu0"})
        baseline.ends("device_del", {"id": "gpu0"})
    baseline.compare(PLUGGED, baseline.ticket)
    baseline.unplugged()
    assert bool(baseline.compare(NOTHING, baseline.ticket)) == (not asked)
