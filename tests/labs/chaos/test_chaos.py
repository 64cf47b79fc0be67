"""Each fault of the surroundings once, but for those that take long: `make chaos` makes all of them."""

from __future__ import annotations

from tests.labs.chaos.__main__ import chaos, told
from tests.labs.chaos.place import Place, broken
from tests.labs.chaos.rows import ROWS, Row


async def test_every_promise_is_kept() -> None:
    seen = await chaos(row for row in ROWS if not row.long)
    assert [told(one) for one in seen if not one.kept] == []


def test_every_row_says_what_it_does() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 40
    assert not [row.name for row in ROWS if not row.fault or not row.promise]


async def test_a_promise_that_is_broken_is_told() -> None:
    async def fault(_place: Place) -> str:
        """It falls over."""
        broken("it fell")

    async def surprise(_place: Place) -> str:
        """It surprises."""
        raise ValueError("oh")

    one, other = await chaos([Row("a", "it stands", fault), Row("b", "it stands", surprise)])
    assert not one.kept
    assert one.seen == "it fell"
    assert "| a: It falls over | it stands | it fell" in told(one)
    assert other.seen == "ValueError('oh')"
