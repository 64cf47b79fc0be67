"""Bursts of queries: a survey yields its queries, takes the answers, and knows no connection.

A burst is a tuple of queries that are sent together. Its answers come back in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from qmpguard.policy.facts import Facts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from qmpguard.wire.json import Value

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Query:
    """One query to QEMU. ``optional``: an error is a valid answer too, and means that the object is missing."""

    command: str
    arguments: tuple[tuple[str, str | bool], ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """The answer to an optional query that QEMU has refused."""


Answer: TypeAlias = "Value | Missing"
Questions: TypeAlias = "Generator[tuple[Query, ...], tuple[Answer, ...], Facts]"


class Unexpected(Exception):  # noqa: N818  -- a fault of the answer, not of our code
    """An answer of QEMU does not have the form of its schema."""


async def drive(
    questions: Generator[tuple[Query, ...], tuple[Answer, ...], T],
    ask: Callable[[tuple[Query, ...]], Awaitable[tuple[Answer, ...]]],
) -> T:
    """Return the result of a survey, after ``ask`` has answered each burst of its queries, in the same order.

    Raises what ``ask`` raises, and what the survey raises.
    """
    try:
        queries = next(questions)
        while True:
            queries = questions.send(await ask(queries))
    except StopIteration as done:
        result: T = done.value
        return result


def together(facts: Facts, asking: list[Questions]) -> Questions:
    """Query several facts in common bursts, and return ``facts`` with what each has found.

    The first burst has the first queries of each, and so on. None of them may need what another one finds.
    """
    found: list[Facts] = []
    waiting: list[tuple[Questions, tuple[Query, ...]]] = []

    def advance(questions: Questions, answers: tuple[Answer, ...] | None) -> None:
        try:
            waiting.append((questions, next(questions) if answers is None else questions.send(answers)))
        except StopIteration as done:
            found.append(done.value)

    for questions in asking:
        advance(questions, None)
    while waiting:
        burst, waiting = waiting, []
        answers = yield tuple(query for _, queries in burst for query in queries)
        for questions, queries in burst:
            own, answers = answers[: len(queries)], answers[len(queries) :]
            advance(questions, own)
    return _merged(facts, found)


_NAMES = tuple(field.name for field in fields(Facts))
_values = attrgetter(*_NAMES)


def _merged(before: Facts, found: list[Facts]) -> Facts:
    """Return the facts with every value that one of ``found`` has and that was another one before."""
    old = _values(before)
    pairs = (pair for facts in found for pair in zip(_NAMES, _values(facts), old, strict=True))
    return replace(before, **{name: value for name, value, was in pairs if value is not was})
