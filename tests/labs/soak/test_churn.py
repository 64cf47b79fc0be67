"""The churn itself, for some seconds: whether it runs, and finds what it is there to find."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.labs.soak import churn as soak
from tests.support.guarding import connected

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.qemu
async def test_a_short_soak_finds_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(soak, "RESTART", (1.5, 2.5))
    monkeypatch.setattr(soak, "SETTLE", 1.0)
    monkeypatch.setattr(soak, "LOOK", 0.2)
    monkeypatch.setattr(soak, "MAX_ENTRIES", 20)
    monkeypatch.setattr(soak, "MEMORY_NOISE", 1.0)  # it is still warming up
    assert await soak.soak(0.1, 8, tmp_path) == []
    assert "\nrequests " in capsys.readouterr().out


def test_growth_and_unexpected_words_are_found(tmp_path: Path) -> None:
    steady = [(20, 30.0)] * 100
    assert soak.growth(steady) == []
    assert soak.growth(steady + [(40, 30.0)] * 100) == ["descriptors grew from 20 to 40"]
    assert soak.growth([(20, 30.0 + i / 10) for i in range(100)])[0].startswith("memory grew from ")
    log = tmp_path / "log"
    log.write_text("x qmpguard 1 ready: clients\nx WARNING vm=vm link=down reason='x'\nx WARNING what is this\n")
    assert soak.unexplained(log, 0) == ["in the log: x WARNING what is this"]
    log.write_text("x WARNING vm=vm link=down reason='x'\n" * 3)
    assert soak.unexplained(log, 2) == []
    assert soak.unexplained(log, 1) == ["the link was lost 3 times, with 1 restarts of QEMU"]


@pytest.mark.qemu
async def test_a_qemu_that_ends_by_itself_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "SETTLE", 0.2)
    machine, ready = soak.Machine(tmp_path), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(machine.run(ready))
        await ready.wait()
        async with connected(tmp_path / "qmp0.sock") as qmp:
            qmp.send({"execute": "quit"})
            await qmp.closed()
        machine.begin(asyncio.get_running_loop().time() + 0.5)
    assert [crash.partition(" at ")[0] for crash in machine.crashes] == ["QEMU ended by itself"]
