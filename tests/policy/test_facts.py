"""The facts: each can be asked for, and none is known before."""

from __future__ import annotations

from dataclasses import fields

import pytest

from qmpguard.policy.facts import Fact, Facts, Unknown, numbers, read_together
from qmpguard.policy.survey import ASK

#: the facts that are not asked of QEMU: the guard has them from elsewhere, or remembers them
REMEMBERED = {
    "hidden": (),
    "netdevs": (),
    "left_on": frozenset(),
    "negotiated": frozenset(),
    "confirmed": frozenset(),
    "own": frozenset(),
    "properties": {},
}


def test_nothing_is_known_at_first() -> None:
    facts = {field.name: getattr(Facts(), field.name) for field in fields(Facts)}
    assert {name: value for name, value in facts.items() if value is not None} == REMEMBERED


def test_the_survey_can_ask_for_every_fact() -> None:
    assert set(ASK) == set(Fact)


@pytest.mark.parametrize("fact", Fact)
def test_what_is_unknown_is_named(fact: Fact) -> None:
    error = Unknown(fact)
    assert (error.facts, str(error)) == ((fact,), fact.value)


def test_facts_that_are_read_together_are_unknown_together() -> None:
    def lack(*facts: Fact, properties: tuple[tuple[str, str], ...] = ()) -> None:
        raise Unknown(*facts, properties=properties)

    read_together(lambda: 5, lambda: None)
    with pytest.raises(Unknown, match="devices") as caught:
        read_together(
            lambda: lack(Fact.DEVICES, Fact.RUNSTATE),
            lambda: 5,
            lambda: lack(properties=(("/gpu", "host"),)),
            lambda: lack(Fact.RUNSTATE, properties=(("/gpu", "host"), ("/gpu", "sysfsdev"))),
            decided=True,
        )
    found = caught.value
    assert (found.facts, found.decided) == ((Fact.DEVICES, Fact.RUNSTATE), True)
    assert found.properties == (("/gpu", "host"), ("/gpu", "sysfsdev"))
    assert str(Unknown(properties=(("/gpu", "host"),))) == "details of the VFIO devices"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("10.0.2", (10, 0, 2)),
        ("7.2", (7, 2)),
        ("11", (11,)),
        ("", None),
        ("10.0.2-rc1", None),
        ("10.", None),
        ("1\u0662", None),  # a digit, though not of ASCII
        ("-1", None),
    ],
)
def test_a_version_is_numbers_or_none(text: str, version: tuple[int, ...] | None) -> None:
    assert numbers(text) == version


def test_versions_are_compared_as_numbers() -> None:
    assert (numbers("9.2.0") or ()) < (numbers("10.0.0") or ())


@pytest.mark.parametrize("version", ["9" * 5000, "8.\u00b2", "", "8..1", "x", "8.1234567890"])
def test_what_is_no_version_has_no_numbers(version: str) -> None:
    assert numbers(version) is None
