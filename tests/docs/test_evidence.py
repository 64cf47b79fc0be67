"""docs/evidence.md: every test and every make target that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/evidence.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT))
    assert len(named) > 15
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", TEXT))
    assert len(named) > 10
    assert named <= targets


def test_every_row_has_a_claim_a_proof_a_result_and_a_date() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith(("| claim", "| suite"))]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_every_result_has_a_date_or_says_that_it_was_not_run() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith(("| claim", "| suite"))]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    undated = [row[2] for row in cells if "`" in row[1] and not re.match(r"\d{4}-\d\d-\d\d", row[3])]
    assert [result for result in undated if not result.startswith("not run")] == []


def test_the_readme_leads_to_it() -> None:
    assert "(docs/evidence.md)" in (ROOT / "README.md").read_text()
