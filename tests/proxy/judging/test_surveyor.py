"""Asking QEMU: all questions of a survey go to one link, and one that is gone answers none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Answer, Query, Unexpected
from qmpguard.proxy.judging.surveyor import Surveyor
from tests.support.guarding import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

Questions = "Generator[tuple[Query, ...], tuple[Answer, ...], list[Answer]]"


class Qemu:
    """Answers each question with its command; ``on_ask`` is called before."""

    def __init__(self, on_ask: Callable[[], object] = lambda: None) -> None:
        self.asked: list[str] = []
        self.on_ask = on_ask

    async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        self.on_ask()
        self.asked += [query.command for query in queries]
        return tuple(query.command for query in queries)


def questions(*commands: str) -> Generator[tuple[Query, ...], tuple[Answer, ...], list[Answer]]:
    found: list[Answer] = []
    for command in commands:
        found += yield (Query(command),)
    return found


async def test_questions_are_asked_one_after_the_other_and_their_result_comes_back() -> None:
    surveyor, qemu = Surveyor(), Qemu()
    surveyor.control = qemu
    assert await surveyor.ask(questions("a", "b")) == ["a", "b"] == qemu.asked


async def test_without_a_link_nothing_is_asked() -> None:
    with pytest.raises(UnavailableError, match="QEMU went away"):
        await Surveyor().ask(questions("a"))


@pytest.mark.parametrize("next_one", [None, Qemu()], ids=["no link", "another link"])
async def test_a_survey_that_one_link_began_is_not_continued_at_the_next(next_one: Qemu | None) -> None:
    surveyor = Surveyor()

    def go_away() -> None:
        surveyor.control = next_one

    qemu = Qemu(go_away)
    surveyor.control = qemu
    with pytest.raises(UnavailableError, match="QEMU went away"):
        await surveyor.ask(questions("a", "b"))
    assert qemu.asked == ["a"]
    assert next_one is None or next_one.asked == []


async def test_who_means_a_certain_link_asks_no_other() -> None:
    surveyor, old = Surveyor(), Qemu()
    surveyor.control = Qemu()
    with pytest.raises(UnavailableError):
        await surveyor.ask(questions("a"), old)
    assert surveyor.control.asked == []


async def test_what_the_survey_raises_comes_back_and_qemu_owes_nothing_then() -> None:
    def odd() -> Generator[tuple[Query, ...], tuple[Answer, ...], None]:
        yield (Query("a"),)
        raise Unexpected("odd")

    surveyor = Surveyor()
    surveyor.control = Qemu()
    with pytest.raises(Unexpected):
        await surveyor.ask(odd())
    assert surveyor.waits_for == 0.0


async def test_while_qemu_owes_an_answer_it_can_be_seen() -> None:
    class Silent(Qemu):
        async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
            self.on_ask()
            await asyncio.Event().wait()
            raise AssertionError

    asked = asyncio.Event()
    surveyor = Surveyor()
    surveyor.control = Silent(asked.set)
    assert surveyor.waits_for == 0.0
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(surveyor.ask(questions("a")))
        await asked.wait()
        assert surveyor.waits_for > 0.0
        task.cancel()
    assert surveyor.waits_for == 0.0
