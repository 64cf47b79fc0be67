"""What comes of reading a request: values that are told apart by their types."""

from __future__ import annotations

from qmpguard.policy.argument_values import MAX_VALUES
from qmpguard.policy.operations import OpenMonitor, RunProgram
from qmpguard.policy.reading.result import MAX_ENTRIES, TOO_MANY, Harmless, Unreadable
from qmpguard.policy.schema import CAPABILITIES


def test_readings_are_compared_by_what_they_say() -> None:
    assert Harmless() == Harmless()
    assert Unreadable("a") == Unreadable("a") != Unreadable("b")
    assert len({OpenMonitor("x"), RunProgram("x")}) == 2


def test_what_is_too_large_says_how_large_it_may_be() -> None:
    assert str(MAX_VALUES) in TOO_MANY.reason


def test_every_capability_of_qemu_can_be_set_in_one_request() -> None:
    assert len(CAPABILITIES) < MAX_ENTRIES
