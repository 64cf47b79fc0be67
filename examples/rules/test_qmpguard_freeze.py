"""The rule as qmpguard judges by it: only the start of a migration out, and only while the file is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import qmpguard_freeze
from qmpguard_freeze import change_freeze

from qmpguard import Machine, Policy, Start

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def freeze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The freeze file, which is not there yet."""
    path = tmp_path / "freeze"
    monkeypatch.setattr(qmpguard_freeze, "FREEZE", path)
    return path


def said(start: Start | None) -> str | None:
    """What the rule says of a machine that nothing is known about: it needs no fact."""
    problem = change_freeze(Machine(starting=start), Policy())
    return problem and problem.refusal


def test_without_the_file_everything_passes(freeze: Path) -> None:
    assert said(Start.OUTGOING) is None


def test_with_the_file_no_migration_starts_and_its_first_line_is_the_reason(freeze: Path) -> None:
    freeze.write_text("storage maintenance until 18:00\nmore\n")
    assert said(Start.OUTGOING) == "Migrations are frozen: storage maintenance until 18:00"
    assert said(Start.INCOMING) is None
    assert said(None) is None


def test_a_file_that_is_empty_or_cannot_be_read_is_a_freeze(freeze: Path) -> None:
    freeze.touch()
    assert said(Start.OUTGOING) == "Migrations are frozen: no reason given"
    freeze.unlink()
    freeze.mkdir()
    assert said(Start.OUTGOING) == "Migrations are frozen: the file cannot be read (Is a directory)"
