"""Tables of rules in the documentation are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmpguard.policy.rules import table

ROOT = Path(__file__).parents[2]


def lines() -> list[str]:
    return [f"| `{rule}` | {standard} | {strict} | {summary} |" for rule, standard, strict, summary in table()]


@pytest.mark.parametrize("document", ["README.md"])
def test_the_table_of_rules_is_that_of_the_code(document: str) -> None:
    text = (ROOT / document).read_text().splitlines()
    start = text.index("| rule | standard | strict | what it does |") + 2
    assert text[start : start + len(lines())] == lines()
    assert not text[start + len(lines())].startswith("|")
