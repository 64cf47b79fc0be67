"""Bursts of queries, and several facts that are queried in common ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.bursts import Answer, Query, drive, together
from qmpguard.policy.facts import Facts

if TYPE_CHECKING:
    from qmpguard.policy.bursts import Questions

BEFORE = Facts(version=(11, 1))


def one_burst() -> Questions:
    answers = yield (Query("a"), Query("b"))
    return replace(BEFORE, runstate=f"{answers}")


def two_bursts() -> Questions:
    (first,) = yield (Query("c"),)
    (second,) = yield (Query("d"),)
    return replace(BEFORE, type=f"{first} {second}")


def none() -> Questions:
    if BEFORE.standbys is not None:
        yield (Query("e"),)
    return replace(BEFORE, standbys=frozenset())


async def run(*asking: Questions) -> tuple[Facts, list[str]]:
    bursts = []

    async def ask(queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        bursts.append("".join(query.command for query in queries))
        return tuple(query.command.upper() for query in queries)

    return await drive(together(BEFORE, list(asking)), ask), bursts


async def test_the_first_queries_of_all_make_the_first_burst_and_each_gets_its_own_answers() -> None:
    facts, bursts = await run(two_bursts(), none(), one_burst())
    assert bursts == ["cab", "d"]
    assert facts == replace(BEFORE, runstate="('A', 'B')", type="C D", standbys=frozenset())


async def test_nothing_is_asked_where_nothing_has_a_query() -> None:
    assert await run(none()) == (replace(BEFORE, standbys=frozenset()), [])


async def test_what_one_raises_ends_all() -> None:
    def broken() -> Questions:
        yield (Query("e"),)
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        await run(one_burst(), broken())
