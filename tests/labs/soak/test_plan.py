"""The plan of faults: the same for the same seed, and only at VMs that faults may meet."""

from __future__ import annotations

from itertools import pairwise

from tests.labs.soak.plan import PAUSE, Kind, Part, plan

SIMULATED, REAL = ["a", "b"], ["real0"]


def test_a_seed_makes_the_same_faults_again() -> None:
    first = list(plan(1, 600, SIMULATED, REAL))
    assert first == list(plan(1, 600, SIMULATED, REAL))
    assert first != list(plan(2, 600, SIMULATED, REAL))


def test_each_kind_comes_in_an_hour_and_only_at_vms_that_it_may_meet() -> None:
    blows = list(plan(1, 3600, SIMULATED, REAL))
    assert {blow.kind for blow in blows} == set(Kind)
    assert all((blow.vm in REAL) is (blow.kind.part is Part.REAL) for blow in blows)


def test_faults_come_one_after_the_other_until_the_time_is_over() -> None:
    blows = list(plan(1, 600, SIMULATED, REAL))
    assert all(PAUSE[0] <= after.at - before.at <= PAUSE[1] for before, after in pairwise(blows))
    assert 600 - PAUSE[1] <= blows[-1].at < 600


def test_without_a_real_qemu_there_is_no_fault_of_one() -> None:
    assert not [blow for blow in plan(1, 3600, SIMULATED, []) if blow.kind.part is Part.REAL]
