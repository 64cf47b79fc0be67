"""docs/reliability.md: every test that it names exists, and so does every fault of `make chaos`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.labs.chaos.rows import ROWS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/reliability.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)


def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > 30
    assert [f"{path}::{name}" for path, name in NAMED if name not in functions_of(path)] == []


def test_every_fault_of_the_lab_that_is_named_exists() -> None:
    named = re.findall(r'`make chaos NAME="([^"]+)"`', TEXT)
    assert len(named) > 8
    assert set(named) <= {row.name for row in ROWS}


def test_every_row_names_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    assert [row for row in rows if "`tests/" not in row and "`make chaos" not in row] == []
