"""Tables of rules in the documentation are those of the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmpguard.commands.rules import markdown, markdown_table
from qmpguard.policy.rules import RULES, documentation, table

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("document", ["README.md", "docs/rules.md"])
def test_the_table_of_rules_is_that_of_the_code(document: str) -> None:
    text = (ROOT / document).read_text()
    _, found, rest = text.partition(markdown_table())
    assert found, f"{document}: make docs, or copy the table from qmpguard rules --markdown"
    assert rest.startswith("\n\n")


def test_the_page_of_the_rules_is_written_from_the_code() -> None:
    assert (ROOT / "docs/rules.md").read_text() == markdown() + "\n", "run make docs"


def test_every_rule_has_a_documentation_that_begins_with_its_line_in_the_table() -> None:
    texts = documentation()
    assert list(texts) == [identity for identity, *_ in table()]
    for identity, _, _, summary in table():
        assert texts[identity].startswith(summary)
    assert all("\n" in rule.documentation for rule in RULES), "a line is no documentation"
