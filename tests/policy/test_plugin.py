"""Rules of somebody else's code: judged like the built-in ones, and contained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.facts import Facts, Unknown
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import Start
from qmpguard.policy.mode import Mode
from qmpguard.policy.operations import StartMigration
from qmpguard.policy.plugin import MAX_ERROR, PlugIn
from qmpguard.policy.policy import Policy
from qmpguard.policy.problem import Problem
from qmpguard.policy.rules import RULES, added, reserved_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.verdict import Verdict

MIGRATE = StartMigration(Start.OUTGOING)
CALM = Machine.of(capabilities=[], devices=[], standbys=[], runstate="running", migration="none")


class Wordless(Exception):  # noqa: N818
    """Its words raise an exception themselves."""

    def __str__(self) -> str:
        raise ValueError


def judged(function: Callable[[Machine, Policy], object], **rules: Mode) -> Verdict:
    return judge(MIGRATE, CALM, Policy(plugins=(PlugIn("own", function).rule,), rules=rules))


def test_a_problem_refuses_and_none_does_not() -> None:
    def frozen(machine: Machine, policy: Policy) -> Problem:
        """Refuse during a freeze."""
        return Problem("There is a freeze", "wait until it is over")

    refusal = judged(frozen).refusal
    assert refusal is not None
    assert (refusal.rule, refusal.problem.refusal) == ("own", "There is a freeze")
    assert not judged(lambda *_: None).findings
    assert [finding.mode for finding in judged(frozen, own=Mode.WARN).findings] == [Mode.WARN]
    assert [row[0] for row in added(Policy(plugins=(PlugIn("own", frozen).rule,)))] == ["own"]
    assert {rule.id for rule in RULES} < reserved_ids()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("odd"), "raised ValueError: odd"),
        (SystemExit(3), "raised SystemExit: 3"),
        (KeyError(), "raised KeyError"),
        (Wordless(), "raised Wordless"),
        (ValueError("x" * 5000), "x" * MAX_ERROR),
    ],
    ids=["words", "exit", "no words", "words that raise", "many words"],
)
def test_one_that_raises_is_unverified_and_names_itself(error: BaseException, told: str) -> None:
    def failing(machine: Machine, policy: Policy) -> None:
        raise error

    refusal = judged(failing).refusal
    assert refusal is not None
    assert refusal.rule == "unverified"
    assert f"plug-in own {told}" in refusal.problem.refusal or told in refusal.problem.refusal
    assert judged(failing, own=Mode.WARN).refusal is None


def test_one_that_returns_what_is_no_problem_is_unverified() -> None:
    refusal = judged(lambda *_: "no").refusal
    assert refusal is not None
    assert "plug-in own returned str, which is no Problem" in refusal.problem.refusal


def test_a_fact_that_was_not_asked_yet_is_asked_for() -> None:
    policy = Policy(plugins=(PlugIn("own", lambda machine, _: machine.runstate and None).rule,))
    with pytest.raises(Unknown):
        judge(MIGRATE, Machine(Facts(capabilities=frozenset())), policy)


def test_what_it_does_not_know_is_no_fault_of_a_plug_in() -> None:
    with pytest.raises(Unknown):
        PlugIn("own", lambda machine, _: machine.runstate).fails(Machine(Facts()), Policy())
