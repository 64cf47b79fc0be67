"""The corpus, played to QEMU and to the guard before another QEMU: the clients of both are sent the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.conformance.differences import unexplained
from tests.support.conformance.scripts import SCRIPTS

if TYPE_CHECKING:
    from tests.support.conformance.twins import Script, Twins

pytestmark = pytest.mark.qemu


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_client_cannot_tell_the_guard_from_qemu(twins: Twins, script: Script) -> None:
    straight, guarded = twins.play(script)
    assert not unexplained(straight, guarded, twins.version), f"{straight}\n{guarded}"


def test_the_corpus_has_scripts_enough_and_each_has_a_name_of_its_own() -> None:
    assert len({script.name for script in SCRIPTS}) == len(SCRIPTS) >= 300
