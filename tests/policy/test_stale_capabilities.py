"""Which capabilities count as left over: those that were on in a migration, and have stayed on since."""

from __future__ import annotations

import pytest

from qmpguard.policy.facts import Facts
from qmpguard.policy.migration import Migration
from qmpguard.policy.stale_capabilities import StaleCapabilities

POSTCOPY, OTHER = "postcopy-ram", "background-snapshot"


def facts(*on: str, status: str = "none", runstate: str | None = None) -> Facts:
    return Facts(frozenset(on), runstate=runstate, migration=Migration(status))


def test_what_was_on_when_a_migration_started_is_left_over() -> None:
    left = StaleCapabilities()
    left.saw(facts(POSTCOPY, "events"))
    assert left.left_on == frozenset()
    left.started()
    left.saw(facts(POSTCOPY, status="failed"))
    assert left.left_on == {POSTCOPY}


@pytest.mark.parametrize(
    "under_way", [facts(POSTCOPY, status="active"), facts(POSTCOPY, runstate="inmigrate")], ids=["out", "in"]
)
def test_what_is_on_while_one_runs_is_left_over_though_the_guard_came_later(under_way: Facts) -> None:
    left = StaleCapabilities()
    left.saw(under_way)
    left.saw(facts(POSTCOPY, status="completed"))
    assert left.left_on == {POSTCOPY}


@pytest.mark.parametrize("status", ["none", "completed", "failed", "cancelled"])
def test_what_was_switched_on_since_is_meant_for_the_next(status: str) -> None:
    left = StaleCapabilities()
    left.saw(facts(status="none"))
    left.started()
    left.saw(facts(POSTCOPY, status=status))  # by another monitor, or after a snapshot
    assert left.left_on == frozenset()


def test_switched_on_again_by_a_client_it_is_no_leftover_any_more() -> None:
    left = StaleCapabilities()
    left.saw(facts(POSTCOPY, OTHER))
    left.started()
    left.switched_on(name for name in (POSTCOPY, "events"))  # whoever calls may give them one by one
    assert left.left_on == {OTHER}
    left.started()
    assert left.left_on == {POSTCOPY, OTHER}


def test_switched_off_it_is_gone_for_good() -> None:
    left = StaleCapabilities()
    left.saw(facts(POSTCOPY, status="active"))
    left.saw(facts(status="completed"))
    left.saw(facts(POSTCOPY, status="completed"))
    assert left.left_on == frozenset()


def test_a_look_that_did_not_ask_for_capabilities_tells_nothing() -> None:
    left = StaleCapabilities()
    left.saw(facts(POSTCOPY, status="active"))
    left.saw(Facts(migration=Migration("completed")))
    assert left.left_on == {POSTCOPY}
    left = StaleCapabilities()
    left.saw(Facts(frozenset({POSTCOPY})))
    assert left.left_on == frozenset()
