"""However much is asked, one slice of work runs in a turn of the loop, and no answer is held whole."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from qmpguard.admin.responses import json_list
from qmpguard.admin.slices import PIECE_SIZE, SLICE_SECONDS, Slices

if TYPE_CHECKING:
    from collections.abc import Iterator

#: what each step of these tests takes by their clock
STEP = SLICE_SECONDS / 10


class Clock:
    """A clock that only the steps turn."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def steps(self, count: int, size: int = 0) -> Iterator[bytes]:
        for _ in range(count):
            self.now += STEP
            yield bytes(size)


async def turns(work: asyncio.Task[None], clock: Clock) -> list[float]:
    """What of the clock each turn of the loop took, until the work is done."""
    taken, before = [], clock.now
    while not work.done():
        await asyncio.sleep(0)
        taken.append(clock.now - before)
        before = clock.now
    return taken


@pytest.mark.parametrize("workers", [1, 2, 50])
async def test_no_turn_of_the_loop_takes_longer_than_a_slice_and_a_step(workers: int) -> None:
    clock = Clock()
    slices = Slices(clock)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(slices.whole(clock.steps(100)))

    async with asyncio.TaskGroup() as tasks:
        taken = await turns(tasks.create_task(work()), clock)
    assert sum(taken) == pytest.approx(workers * 100 * STEP)
    assert max(taken) <= SLICE_SECONDS + STEP * 1.5


async def test_many_small_pieces_of_work_share_a_turn_up_to_the_same_limit() -> None:
    clock = Clock()
    slices = Slices(clock)

    async def work() -> None:
        for n in range(200):
            assert len(await slices.slice(clock.steps(1 + n % 9))) <= 1 + n % 9

    async with asyncio.TaskGroup() as tasks:
        taken = await turns(tasks.create_task(work()), clock)
    assert max(taken) <= SLICE_SECONDS + STEP * 1.5


async def test_a_slice_is_no_larger_than_a_piece_and_a_step() -> None:
    slices, clock = Slices(lambda: 0.0), Clock()
    steps = clock.steps(1000, 1000)
    sizes = []
    while made := await slices.slice(steps):
        sizes.append(sum(map(len, made)))
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= PIECE_SIZE + 1000


async def test_a_step_that_fails_ends_its_own_work_only() -> None:
    slices, clock = Slices(), Clock()

    def failing() -> Iterator[bytes]:
        yield b""
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        await slices.whole(failing())
    assert await slices.whole(clock.steps(2, 1)) == [b"\0\0"]


def test_a_listing_is_a_json_list_whatever_is_left_out() -> None:
    assert b"".join(json_list(b"[", [], b"]")) == b"[]"
    assert b"".join(json_list(b"[", [b"", b"1", b"", b"2", b""], b"]")) == b"[1,2]"
