"""The heartbeat: whether QEMU answers is told each time that it has changed, and only then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from qmpguard.proxy.qemu import heartbeat as module
from qmpguard.proxy.qemu.heartbeat import Heartbeat
from tests.support.guarding import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator


class Control:
    """The guard's own session with a QEMU that answers as a script says; None: it does not answer."""

    def __init__(self, answers: list[bool | None]) -> None:
        self._answers: Iterator[bool | None] = iter(answers)
        self.over = asyncio.Event()

    async def answers_out_of_band(self) -> bool:
        try:
            answer = next(self._answers)
        except StopIteration:
            self.over.set()
            answer = None
        if answer is None:
            await asyncio.Event().wait()
        return bool(answer)


async def told(answers: list[bool | None], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return what the owner is told while QEMU answers so; after the last answer it is not asked for any more."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    monkeypatch.setattr(module, "HEARTBEAT_TIMEOUT", 0.001 if None in answers else TIMEOUT)
    changes: list[bool] = []
    control = Control(answers)
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(Heartbeat("vm", changes.append).run(control))  # type: ignore[arg-type]
        await control.over.wait()
        task.cancel()
    return changes


@pytest.mark.parametrize(
    ("answers", "changes"),
    [
        ([], []),
        ([True, True, True], []),
        ([False], [False]),
        ([False, False, True, True, False], [False, True, False]),
        ([None], [False]),
        ([None, None, True], [False, True]),
    ],
    ids=str,
)
async def test_each_change_is_told_once(
    answers: list[bool | None], changes: list[bool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert await told(answers, monkeypatch) == changes
    said = [record.getMessage() for record in caplog.records if "heartbeat=" in record.getMessage()]
    assert said == [f"vm=vm heartbeat={'ok' if alive else 'none'}" for alive in changes]


def test_a_qemu_that_was_stopped_is_noticed_sooner_than_the_admin_interface_promises() -> None:
    assert module.INTERVAL + module.HEARTBEAT_TIMEOUT < 20.0
