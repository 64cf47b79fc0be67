"""Overrides: a rule warns until its time is over; each begin and end is told once, and none outlives its guard."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.policy.policy import Mode, Policy
from qmpguard.proxy.judging.overrides import Overrides
from qmpguard.record import Override, Peer
from tests.support.guarding import eventually

if TYPE_CHECKING:
    import pytest

PEER = Peer(1, 2, 3, 4)
RULE = "vfio-postcopy"


class Told(NamedTuple):
    """What the owner of the overrides was told."""

    policies: list[Policy]
    happenings: list[Override]


def overrides(policy: Policy | None = None) -> tuple[Overrides, Told]:
    told = Told([], [])
    return Overrides("vm", policy or Policy(), told.policies.append, told.happenings.append), told


def mode(policy: Policy, rule: str) -> Mode:
    """Return the mode that a policy gives a rule which enforces by default."""
    return Mode.weaker(policy.mode, policy.rules.get(rule, Mode.ENFORCE))


async def test_a_rule_warns_until_its_override_ends() -> None:
    found, told = overrides()
    before = time.time()
    override = found.begin(RULE, 60.0, "a reason", PEER)
    assert (override.begun, override.rule, override.reason, override.peer) == (True, RULE, "a reason", PEER)
    assert before + 60.0 <= override.until <= time.time() + 60.0
    assert found.active == (override,)
    assert [mode(found.policy, rule) for rule in (RULE, "new-monitor")] == [Mode.WARN, Mode.ENFORCE]
    assert found.end(RULE)
    assert list(found.active) == []
    assert found.policy == Policy()
    assert [happening.begun for happening in told.happenings] == [True, False]
    assert told.happenings[1].rule == RULE


async def test_the_gate_is_given_the_policy_at_each_change() -> None:
    found, told = overrides()
    found.begin(None, 60.0, "a reason", PEER)
    assert mode(told.policies[-1], "new-monitor") is Mode.WARN
    found.end(None)
    assert told.policies[-1] == Policy()
    assert len(told.policies) == 2


async def test_each_begin_and_end_is_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    found, told = overrides()
    found.begin(RULE, 60.0, "a reason", PEER)
    found.close()
    assert [record.getMessage() for record in caplog.records] == [f"vm=vm {what}" for what in told.happenings]


async def test_an_override_ends_by_itself() -> None:
    found, told = overrides()
    found.begin(RULE, 0.0, "a reason", PEER)
    await eventually(lambda: not found.active)
    assert [happening.begun for happening in told.happenings] == [True, False]
    assert not found.end(RULE)
    assert len(told.happenings) == 2


async def test_the_second_override_of_a_rule_takes_the_place_of_the_first_and_of_its_end() -> None:
    found, told = overrides()
    found.begin(RULE, 0.0, "first", PEER)
    second = found.begin(RULE, 60.0, "second", PEER)
    for _ in range(5):  # the first one's time is over by now
        await asyncio.sleep(0)
    assert found.active == (second,)
    assert [happening.reason for happening in told.happenings] == ["first", "second"]
    found.close()


async def test_closing_ends_all_of_them() -> None:
    found, told = overrides()
    for rule in (RULE, None, "new-monitor"):
        found.begin(rule, 60.0, "a reason", PEER)
    found.close()
    assert (found.active, found.policy) == ((), Policy())
    assert [happening.rule for happening in told.happenings if not happening.begun] == [RULE, None, "new-monitor"]
    found.close()
    assert len(told.happenings) == 6


async def test_what_is_overridden_holds_for_the_next_policy_too() -> None:
    found, _ = overrides()
    found.begin(RULE, 60.0, "a reason", PEER)
    found.base = Policy(rules={"new-monitor": Mode.OFF})
    assert [mode(found.policy, rule) for rule in (RULE, "new-monitor")] == [Mode.WARN, Mode.OFF]
    found.close()


async def test_ending_what_was_not_begun_tells_nobody(caplog: pytest.LogCaptureFixture) -> None:
    found, told = overrides()
    assert not found.end(RULE)
    assert told == Told([], [])
    assert not caplog.records
