"""Problems and findings: texts have a limit, and an error text names what it is about."""

from __future__ import annotations

from qmpguard.policy.mode import Mode
from qmpguard.policy.problem import MAX_TEXT, Finding, Problem


def test_a_text_of_a_client_has_a_limit() -> None:
    problem = Problem("x" * 5000, "y" * MAX_TEXT, ("z" * 5000,))
    assert len(problem.refusal) == MAX_TEXT == len(problem.fix) == len(problem.devices[0])
    assert problem.refusal.endswith("...")
    assert not problem.fix.endswith("...")


def test_an_error_text_names_rule_devices_setting_advice_and_reference() -> None:
    one = Finding("a-rule", Mode.ENFORCE, Problem("No.", "do that", ("gpu0",), "postcopy-ram"))
    assert one.text("7-1") == (
        "No. (qmpguard: rule a-rule, device 'gpu0', capability postcopy-ram is on; do that; ref 7-1)"
    )
    two = Finding("a-rule", Mode.WARN, Problem("No.", "do that", ("a", "b"), parameter="mode is cpr-exec"))
    assert two.text() == "No. (qmpguard: rule a-rule, devices 'a', 'b', parameter mode is cpr-exec; do that)"


def test_a_refusal_that_is_qemus_own_is_told_as_it_is() -> None:
    assert Finding("unverified", Mode.ENFORCE, Problem("Not found", "", as_qemu=True)).text("7-1") == "Not found"


def test_the_fix_is_cut_as_the_refusal_is() -> None:
    problem = Problem("r" * 5000, "f" * 5000, ("d" * 5000,))
    assert {len(problem.refusal), len(problem.fix), *map(len, problem.devices)} == {MAX_TEXT}
