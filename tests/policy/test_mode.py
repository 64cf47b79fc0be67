"""Modes and profiles: the weaker of two modes holds, and their words are those of the configuration."""

from __future__ import annotations

from itertools import product

from qmpguard.policy.mode import Mode, Profile


def test_the_weaker_of_two_modes_holds() -> None:
    strength = {Mode.OFF: 0, Mode.WARN: 1, Mode.ENFORCE: 2}
    for one, other in product(Mode, Mode):
        assert strength[Mode.weaker(one, other)] == min(strength[one], strength[other])


def test_the_words_of_the_configuration() -> None:
    assert [mode.value for mode in Mode] == ["enforce", "warn", "off"]
    assert [profile.value for profile in Profile] == ["standard", "strict"]
