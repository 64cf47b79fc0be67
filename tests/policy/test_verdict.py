"""Verdicts: what a client is told, and what is refused in QEMU's own words."""

from __future__ import annotations

import pytest

from qmpguard.policy.mode import Mode
from qmpguard.policy.problem import Refusal
from qmpguard.policy.verdict import refused_by_qemu

EARLY = "The command '{}' is permitted only after machine initialization has completed"
QUERY = "query-migrate-capabilities"


def told(text: str, commands: frozenset[str] | None = None, *, query: str = QUERY) -> tuple[str, str] | None:
    """The text and the class that a client of ``migrate`` is told; None where QEMU might execute it."""
    verdict = refused_by_qemu("migrate", Refusal(query, "Of QEMU", text), commands, Mode.ENFORCE)
    if verdict is None:
        return None
    assert verdict.refusal is not None
    return verdict.refusal.text("ref-1"), verdict.refusal.problem.error_class


def test_what_comes_too_early_is_refused_as_qemu_refuses_it() -> None:
    assert told(EARLY.format(QUERY)) == (EARLY.format("migrate"), "Of QEMU")
    assert told(EARLY.format(QUERY).replace("'", "")) == (EARLY.format("migrate").replace("'", ""), "Of QEMU")


def test_what_qemu_does_not_have_is_refused_as_qemu_refuses_it() -> None:
    gone = "The command {} has not been found"
    assert told(gone.format(QUERY), frozenset({"query-status"})) == (gone.format("migrate"), "CommandNotFound")


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        (EARLY.format("query-status"), None),
        ("The command query-migrate-capabilities has not been found", None),
        ("The command query-migrate-capabilities has not been found", frozenset({"migrate"})),
        ("Deprecated command query-migrate-capabilities disabled by policy", frozenset()),
        ("not now", frozenset()),
    ],
)
def test_whatever_else_qemu_says_is_no_sign_that_it_would_refuse(text: str, commands: frozenset[str] | None) -> None:
    assert told(text, commands) is None


def test_in_mode_warn_it_passes_and_is_on_record() -> None:
    refusal = Refusal(QUERY, "GenericError", EARLY.format(QUERY))
    verdict = refused_by_qemu("migrate", refusal, None, Mode.WARN)
    assert verdict is not None
    assert verdict.refusal is None
    assert [finding.rule for finding in verdict.warnings] == ["unverified"]
