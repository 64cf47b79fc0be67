"""Hostile QEMUs for some seconds: every prank that is one of a kind, and closing at some bytes of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.labs.hostile.pranks import CUTS, PRANKS
from tests.labs.hostile.pranksters import pranks

if TYPE_CHECKING:
    from pathlib import Path


async def test_hostile_qemus_harm_their_own_vm_only_and_it_comes_back(tmp_path: Path) -> None:
    assert await pranks(tmp_path, (*PRANKS[::3], *CUTS[::9])) == []
