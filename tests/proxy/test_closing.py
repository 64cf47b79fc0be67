"""Why a conversation ends: each reason has words of its own, and each is a drop or an end that nobody counts."""

from __future__ import annotations

from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.state.counters import DROPS


def test_reasons_differ_in_their_words() -> None:
    assert len({reason.value for reason in CloseReason}) == len(CloseReason)


def test_a_client_that_has_left_and_the_guards_stop_are_no_drops() -> None:
    assert set(CloseReason) - DROPS.keys() == {CloseReason.ENDED, CloseReason.STOPPED}
