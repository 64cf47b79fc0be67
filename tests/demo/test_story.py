"""The demo: it is told to its end, without userfaultfd too, and what it lacks is one line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from qmpguard.cli import main
from qmpguard.demo import story
from qmpguard.demo.lab import LabUnavailable
from tests.demo.test_lab import nothing_here, program

if TYPE_CHECKING:
    from pathlib import Path

#: the migrations of the chapters, and the refusals of the second
ENDS = ["postcopy-active", "completed", "completed"]


@pytest.mark.qemu11
@pytest.mark.parametrize(
    "lacking",
    [pytest.param(False, marks=pytest.mark.userfaultfd, id="whole"), pytest.param(True, id="without userfaultfd")],
)
async def test_the_story_is_told_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lacking: bool
) -> None:
    def lack() -> None:
        raise LabUnavailable("no userfaultfd: allow it")

    if lacking:
        monkeypatch.setattr(story, "userfaultfd", lack)
    assert await asyncio.to_thread(main, ["demo"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("no userfaultfd: allow it.\n") == lacking
    assert [line.split(": ")[1] for line in told.splitlines() if line.startswith("   the migration: ")] == [
        "active",
        *ENDS,
    ]
    assert told.count(" ← error: gpu0: ") == 3


async def test_where_no_qemu_can_be_had_it_is_told_with_a_simulated_one_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nothing_here(monkeypatch, tmp_path)
    assert await asyncio.to_thread(main, ["demo"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("SIMULATED: the QEMU of this demo is only simulated, since no QEMU 10.1 or later")
    assert [line for line in told.splitlines() if line.startswith("   the migration: ")] == [
        "   the migration: completed"
    ] * 2
    assert told.count(" ← error: gpu0: ") == 2


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\necho sorry >&2\necho no >&2\nexit 1\n", "ended before it was ready: sorry no"),
    ],
)
def test_a_demo_that_cannot_go_on_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    script: str,
    reason: str,
) -> None:
    nothing_here(monkeypatch, tmp_path)
    monkeypatch.setenv("QMPGUARD_QEMU11_BINARY", str(program(tmp_path / "qemu", script)))
    assert main(["demo"]) == 69
    said = capsys.readouterr().err
    assert said.startswith("qmpguard: the demo cannot go on: ")
    assert said.endswith(f"{reason}\n")
    assert said.count("\n") == 1
