"""docs/evidence.md: every target, test and document that it names exists, and each row has a command and a date."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/evidence.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("| ") and not line.startswith("| claim")
]


def test_every_target_that_is_named_is_a_target_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", TEXT))
    assert len(named) > 15
    assert named <= targets


def test_every_path_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/.]+)`", TEXT) + [f"docs/{name}" for name in re.findall(r"\]\((\w[\w.-]+)\)", TEXT)]
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_row_has_a_command_and_a_date_or_says_that_it_was_not_measured() -> None:
    assert len(ROWS) > 35
    assert [row for row in ROWS if len(row) != 4] == []
    assert [row[1] for row in ROWS if "`make " not in row[1] and "`tests/" not in row[1]] == []
    date = re.compile(r"\d{4}-\d\d-\d\d|not measured on this version")
    assert [row[3] for row in ROWS if not date.fullmatch(row[3])] == []
    assert "@" not in TEXT  # no figure is left out


def test_the_readme_leads_to_it() -> None:
    assert "(docs/evidence.md)" in (ROOT / "README.md").read_text()
