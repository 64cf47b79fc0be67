"""Hostile QEMUs for some seconds: every prank that is one of a kind, and closing at some bytes of all."""

from __future__ import annotations

import re
from pathlib import Path

from qmpguard.policy import survey
from tests.labs.hostile.pranks import ASKED, CUTS, PRANKS
from tests.labs.hostile.pranksters import pranks


async def test_hostile_qemus_harm_their_own_vm_only_and_it_comes_back(tmp_path: Path) -> None:
    assert await pranks(tmp_path, (*PRANKS[::3], *CUTS[::9])) == []


def test_there_are_pranks_for_every_question_of_the_survey() -> None:
    asked = set(re.findall(r'Query\("([\w-]+)"', Path(survey.__file__).read_text()))
    assert len(asked) > 8
    assert asked <= set(ASKED)
