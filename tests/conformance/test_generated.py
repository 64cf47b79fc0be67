"""Generated scripts, played to QEMU and to the guard; `make fuzz` plays them for as long as one likes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.conformance.differences import unexplained
from tests.support.conformance.strategies import SCRIPTS

if TYPE_CHECKING:
    from tests.support.conformance.twins import Script, Twins

pytestmark = pytest.mark.qemu


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(script=SCRIPTS)
def test_a_client_that_sends_anything_cannot_tell_the_guard_from_qemu(twins: Twins, script: Script) -> None:
    straight, guarded = twins.play(script)
    assert not unexplained(straight, guarded, twins.version), f"{straight}\n{guarded}"
