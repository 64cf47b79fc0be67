"""The counters: a decision counts once and each of its findings by rule; durations by their bounds."""

from __future__ import annotations

from collections import Counter

import pytest

from qmpguard.policy.policy import Mode
from qmpguard.policy.verdict import Finding, Problem, Verdict
from qmpguard.proxy.state.counters import BOUNDS, DROP_REASONS, Counters, Durations
from qmpguard.record import Decision, Peer


def decision(*findings: tuple[str, Mode]) -> Decision:
    verdict = Verdict(tuple(Finding(rule, mode, Problem("it breaks", "stop")) for rule, mode in findings))
    return Decision("ref", Peer(1), "migrate", verdict, "10.0.2", "unknown", 0.1)


@pytest.mark.parametrize(
    ("findings", "allowed", "refused", "warned", "decisions"),
    [
        ([], 1, 0, 0, {("none", "allowed", "none"): 1}),
        ([("a", Mode.ENFORCE)], 0, 1, 0, {("a", "refused", "enforce"): 1}),
        ([("a", Mode.WARN)], 0, 0, 1, {("a", "warned", "warn"): 1}),
        (
            [("a", Mode.WARN), ("b", Mode.ENFORCE), ("c", Mode.ENFORCE)],  # one of them refuses
            0,
            1,
            2,
            {("a", "warned", "warn"): 1, ("b", "refused", "enforce"): 1, ("c", "warned", "enforce"): 1},
        ),
    ],
)
def test_a_decision_is_counted_with_each_of_its_findings(
    findings: list[tuple[str, Mode]],
    allowed: int,
    refused: int,
    warned: int,
    decisions: dict[tuple[str, str, str], int],
) -> None:
    counters = Counters()
    counters.decided(decision(*findings))
    assert (counters.allowed, counters.refused, counters.warned) == (allowed, refused, warned)
    assert counters.decisions == Counter(decisions)


def test_counters_only_grow() -> None:
    counters = Counters()
    for _ in range(3):
        counters.decided(decision(("a", Mode.WARN)))
        counters.decided(decision())
    assert (counters.allowed, counters.warned) == (3, 3)


def test_a_client_without_a_descriptor_is_one_of_the_drops() -> None:
    counters = Counters()
    counters.no_descriptors()
    assert counters.drops == {"no_descriptors": 1}
    assert set(counters.drops) <= set(DROP_REASONS)


def test_each_reason_of_a_drop_has_a_name_of_its_own() -> None:
    assert len(set(DROP_REASONS)) == len(DROP_REASONS)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (BOUNDS[0], 0), (BOUNDS[0] * 1.01, 1), (0.3, 8), (BOUNDS[-1], len(BOUNDS) - 1), (1e9, len(BOUNDS))],
)
def test_a_duration_is_in_the_first_bound_that_it_does_not_exceed(seconds: float, bucket: int) -> None:
    durations = Durations()
    durations.add(seconds)
    assert [index for index, count in enumerate(durations.counts) if count] == [bucket]
    assert durations.total == seconds


def test_bounds_are_in_order() -> None:
    assert list(BOUNDS) == sorted(set(BOUNDS))
