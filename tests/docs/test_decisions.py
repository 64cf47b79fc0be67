"""The decisions are numbered without a gap, and each begins with its date."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs/decisions.md").read_text()
ENTRY = re.compile(r"^### (\d+)\. .+\n(\d{4}-\d{2}-\d{2})\. ", re.MULTILINE)


def test_every_decision_has_its_number_and_its_date() -> None:
    entries = ENTRY.findall(TEXT)
    assert [int(number) for number, _ in entries] == list(range(1, TEXT.count("\n### ") + 1))
    assert all(date.fromisoformat(day) for _, day in entries)
