"""The rule about requests that end QEMU: by the version that is there, and a warning where it is not certain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qmpguard.policy.crash_rule import qemu_crash
from qmpguard.policy.crashes import crash
from qmpguard.policy.machine import Machine
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy


@pytest.mark.parametrize(
    ("version", "refused"), [((7, 2, 22), True), ((11, 1, 3), False), ((11, 0), True), (None, True)]
)
def test_a_version_that_is_mended_is_left_alone(version: tuple[int, ...] | None, refused: bool) -> None:
    row = crash("qom-list-properties", {"typename": "colo-compare"})
    machine = replace(Machine.of(version=version), crash=row)
    assert (qemu_crash(machine, Policy()) is not None) is refused


def test_what_is_not_certain_warns_and_is_refused_in_profile_strict() -> None:
    machine = replace(Machine.of(), crash=crash("qom-list-types", {}))
    (standard, strict) = (qemu_crash(machine, Policy(profile=profile)) for profile in Profile)
    assert standard is not None
    assert strict is not None
    assert (standard.advisory, strict.advisory) == (True, False)


def test_other_requests_pass() -> None:
    assert qemu_crash(Machine.of(), Policy()) is None
