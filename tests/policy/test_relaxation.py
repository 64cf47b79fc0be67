"""What an override makes of a policy."""

from __future__ import annotations

import pytest

from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.policy import Policy
from qmpguard.policy.relaxation import relaxed
from qmpguard.policy.rules import modes

STRICT = Policy(profile=Profile.STRICT)
OFF = Policy(rules={"vfio-postcopy": Mode.OFF})


@pytest.mark.parametrize("policy", [Policy(), STRICT, OFF, Policy(mode=Mode.WARN)])
def test_all_rules_warn_at_most_and_none_becomes_stricter(policy: Policy) -> None:
    before, after = dict(modes(policy)), dict(modes(relaxed(policy, [None])))
    assert {rule: Mode.weaker(mode, Mode.WARN) for rule, mode in before.items()} == after
    assert Mode.ENFORCE not in after.values()


def test_one_rule_warns_and_the_others_are_as_they_were() -> None:
    before, after = dict(modes(STRICT)), dict(modes(relaxed(STRICT, ["hmp-write"])))
    assert after == before | {"hmp-write": Mode.WARN}


def test_unverified_can_be_overridden_like_any_other() -> None:
    assert dict(modes(relaxed(Policy(), ["unverified"])))["unverified"] is Mode.WARN


def test_nothing_overridden_is_the_policy_itself() -> None:
    assert relaxed(STRICT, []) is STRICT
