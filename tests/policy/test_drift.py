"""Drift: what counts as changed behind the guard's back."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.drift import SET_BY_QEMU, Baseline
from qmpguard.policy.facts import Facts

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
    assert looks(LIT, Facts(devices=()), NOTHING) == ["migration capabilities: events, postcopy-ram -> none"]


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


LEFT = ("DEVICE_DELETED", {"device": "gpu0", "path": GPU.path})
NEGOTIATED = ("FAILOVER_NEGOTIATED", {"device-id": "net0"})
PRIMARY = Device("/machine/peripheral/hp0", "vfio-pci", "hp0")
SHOWN = Facts(
    capabilities=frozenset(),
    devices=(PRIMARY,),
    details=(Device(PRIMARY.path, "vfio-pci", "hp0", failover_pair_id="net0"),),
)


def seen_after(event: tuple[str, dict[str, Any]], before: Facts, *after: Facts) -> list[str]:
    """What has drifted between a look and later ones, with an event of QEMU's in between."""
    baseline = Baseline()
    baseline.compare(before, baseline.ticket)
    assert baseline.happened(*event)
    return [str(drift) for seen in after for drift in baseline.compare(seen, baseline.ticket)]


@pytest.mark.parametrize(
    ("event", "before", "after"),
    [
        (LEFT, PLUGGED, [NOTHING]),  # the guest has ejected it, or the host has taken it back
        (LEFT, NOTHING, [NOTHING]),
        (LEFT, Facts(), [NOTHING]),
        (NEGOTIATED, NOTHING, [SHOWN, SHOWN]),  # what QEMU had hidden shows
        (NEGOTIATED, NOTHING, [Facts(devices=(PRIMARY,)), SHOWN]),  # without its details nobody can tell yet
        (NEGOTIATED, Facts(), [SHOWN]),
        (NEGOTIATED, NOTHING, [NOTHING, SHOWN]),
    ],
)
def test_what_qemu_has_told_of_is_no_drift(
    event: tuple[str, dict[str, Any]], before: Facts, after: list[Facts]
) -> None:
    assert seen_after(event, before, *after) == []


def test_beside_what_qemu_has_told_of_all_else_is_drift() -> None:
    both = Facts(devices=(GPU, PRIMARY), details=(GPU, *(SHOWN.details or ())))
    assert seen_after(LEFT, PLUGGED, SHOWN) == ["devices: none -> hp0"]
    assert seen_after(NEGOTIATED, NOTHING, both) == ["devices: hp0 -> gpu0, hp0"]
    assert seen_after(NEGOTIATED, NOTHING, SHOWN, NOTHING, SHOWN)[1:] == ["devices: none -> hp0"]  # it is told once
    assert seen_after(("DEVICE_DELETED", {"path": "/machine/peripheral/other"}), PLUGGED, NOTHING) != []


def test_an_event_spoils_a_look_that_is_under_way() -> None:
    for event in (LEFT, NEGOTIATED):
        baseline = Baseline()
        baseline.compare(PLUGGED, ticket := baseline.ticket)
        baseline.happened(*event)
        assert baseline.compare(NOTHING, ticket) == []


@pytest.mark.parametrize("event", [("STOP", {}), ("DEVICE_DELETED", {}), ("FAILOVER_NEGOTIATED", {"device-id": 5})])
def test_other_events_account_for_nothing(event: tuple[str, dict[str, Any]]) -> None:
    assert not Baseline().happened(*event)


@pytest.mark.parametrize("name", ["block", *sorted(SET_BY_QEMU - {"block"})])
def test_a_capability_that_qemu_switches_by_itself_is_not_watched(name: str) -> None:
    lit = Facts(capabilities=frozenset({name}), devices=())
    assert looks(NOTHING, lit, NOTHING) == []
