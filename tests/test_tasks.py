"""A task that raises ends alone: it is logged and counted, and its owner is told."""

from __future__ import annotations

import asyncio
import logging

import pytest

from qmpguard.tasks import Tasks


async def failing() -> None:
    await asyncio.sleep(0)
    raise ValueError("odd")


async def test_an_exception_ends_neither_the_group_nor_other_tasks(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Exception] = []
    done = asyncio.Event()

    async def other() -> None:
        await asyncio.sleep(0.01)
        done.set()

    async with Tasks("vm=a") as tasks:
        tasks.start("other", other())
        await tasks.start("failing", failing(), told.append)
        assert not done.is_set()
    assert done.is_set()
    assert [str(error) for error in told] == ["odd"]
    assert tasks.faults == {"failing": 1}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == "vm=a task=failing failed: ValueError('odd')"
    assert record.exc_info is not None


async def test_an_exception_of_the_owners_own_callback_is_contained_too() -> None:
    def callback(error: Exception) -> None:
        raise RuntimeError("worse") from error

    async with Tasks() as tasks:
        await tasks.start("failing", failing(), callback)
    assert tasks.faults == {"failing": 2}


async def test_cancelling_a_task_is_no_fault() -> None:
    async with Tasks() as tasks:
        task = tasks.start("endless", asyncio.sleep(1000))
        await asyncio.sleep(0)
        task.cancel()
    assert not tasks.faults


async def test_an_error_of_the_body_cancels_the_tasks() -> None:
    started: list[asyncio.Task[None]] = []

    async def body() -> None:
        async with Tasks() as tasks:
            started.append(tasks.start("endless", asyncio.sleep(1000)))
            await asyncio.sleep(0)
            raise ValueError("the body's own")

    with pytest.raises(ExceptionGroup) as caught:
        await body()
    assert started[0].cancelled()
    assert caught.group_contains(ValueError)


async def test_a_task_that_is_cancelled_before_its_first_step_leaves_no_coroutine_behind() -> None:
    work = asyncio.sleep(1000)
    async with Tasks() as tasks:
        tasks.start("endless", work).cancel()
    with pytest.raises(RuntimeError, match="cannot reuse"):
        await work
