"""The recorded conversations with real QEMUs, and what the guard says to each of their commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.recording.replay import Rejudged, replay

if TYPE_CHECKING:
    from qmpguard.policy.policy import Policy

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"


def texts(name: str) -> list[str]:
    return (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines(keepends=True)


def judged(name: str, policy: Policy) -> list[Rejudged]:
    """Every command of a recording that the guard judges, with its verdict."""
    return list(replay(texts(name), name, lambda _: policy))
