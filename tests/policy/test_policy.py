"""How strict a guard is: the weaker mode holds, and a rule's line says its modes and its documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.policy import Policy, Rule

if TYPE_CHECKING:
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.problem import Problem


def never(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse nothing.

    It is for tests.
    """
    return None


RULE = Rule("never", never, Mode.WARN, Mode.ENFORCE)


@pytest.mark.parametrize("one", Mode)
@pytest.mark.parametrize("other", Mode)
def test_of_two_modes_the_weaker_one_holds(one: Mode, other: Mode) -> None:
    order = [Mode.OFF, Mode.WARN, Mode.ENFORCE]
    assert Mode.weaker(one, other) is order[min(order.index(one), order.index(other))]


@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        (Policy(), Mode.WARN),
        (Policy(profile=Profile.STRICT), Mode.ENFORCE),
        (Policy(profile=Profile.STRICT, mode=Mode.WARN), Mode.WARN),
        (Policy(rules={"never": Mode.ENFORCE}), Mode.ENFORCE),
        (Policy(rules={"never": Mode.OFF}, profile=Profile.STRICT), Mode.OFF),
        (Policy(rules={"never": Mode.ENFORCE}, mode=Mode.WARN), Mode.WARN),
        (Policy(rules={"another": Mode.OFF}), Mode.WARN),
    ],
)
def test_a_rules_mode_is_its_own_or_its_profiles_and_no_stronger_than_the_policys(policy: Policy, mode: Mode) -> None:
    assert RULE.mode(policy) is mode


def test_by_default_a_policy_enforces_and_is_not_strict() -> None:
    assert (Policy().mode, Policy().profile, Policy().strict) == (Mode.ENFORCE, Profile.STANDARD, False)
    assert Policy(profile=Profile.STRICT).strict


def test_a_rule_is_documented_by_its_function_unless_it_has_a_text() -> None:
    assert (RULE.summary, RULE.documentation) == ("Refuse nothing.", "Refuse nothing.\n\nIt is for tests.")
    assert Rule("other", never, Mode.OFF, text="Another text.").summary == "Another text."
