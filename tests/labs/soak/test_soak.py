"""A short soak: whether it runs, and finds what it is there to find."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Tree

from benchmarks.plot import lines
from qmpguard.record import MAX_ENTRIES
from tests.labs.soak import __main__ as soak
from tests.labs.soak.samples import Sample, minutes, panels
from tests.labs.soak.stage import config, names
from tests.labs.soak.tally import Tally

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_short_soak_finds_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "LOOK", 0.5)
    monkeypatch.setattr(soak, "growth", lambda _: [])  # it is still warming up
    samples, tally = await soak.soak(soak.Options(0.1, 8, 0, 1), tmp_path)
    assert tally.faults == []
    assert tally.counts["replies"] > 0
    assert sum(sample.replies for sample in samples) > 0
    assert all(sample.memory > 1 and sample.descriptors > 8 for sample in samples)


async def test_a_sample_is_taken_before_the_guard_is_asked_for_its_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = SimpleNamespace(alive=True, memory=50.0, descriptors=900)

    async def entries(_folder: Path, _tally: Tally) -> int:
        guard.memory, guard.alive = 99.0, False
        return 7

    monkeypatch.setattr(soak, "LOOK", 0.0)
    monkeypatch.setattr(soak, "entries", entries)
    samples: list[Sample] = []
    await soak.watch(tmp_path, guard, [], 60.0, Tally(), samples)  # type: ignore[arg-type]
    assert [(one.memory, one.entries) for one in samples] == [(50.0, 7)]


def test_vms_that_are_never_touched_are_the_same_in_each_config(tmp_path: Path) -> None:
    vms = names(200, 4)
    assert (len(vms.touched), len(vms.quiet), len(vms.real), len(set(vms.all))) == (150, 50, 4, 204)
    tables = set(config(tmp_path, vms).split("[[vm]]"))
    changed = set(config(tmp_path, vms, without=vms.touched[:2], strict=vms.touched[2:8]).split("[[vm]]"))
    assert len(tables - changed) == 8
    assert not [name for name in (*vms.quiet, *vms.real) if any(f'"{name}"' in text for text in tables - changed)]


def test_what_journals_keep_is_read_from_the_metrics_and_bounded_by_their_rings() -> None:
    metrics = (
        'qmpguard_decisions_total{outcome="allowed",vm="a"} 700.0\n'
        'qmpguard_decisions_total{outcome="refused",vm="a"} 700.0\n'
        'qmpguard_events_total{event="STOP",vm="a"} 30.0\n'
        'qmpguard_commands_total{vm="a"} 99.0\n'
    )
    assert soak.kept_entries(metrics) == MAX_ENTRIES + 30


def test_replies_are_counted_once_and_faults_are_kept() -> None:
    tally = Tally()
    tally.take({"counts": {"replies": 5}})
    tally.take({"counts": {"replies": 2}})
    assert (tally.new_replies(), tally.new_replies()) == (7, 0)
    tally.take({"fault": "x"})
    assert tally.faults == ["x"]


def test_the_plot_is_svg_with_a_line_for_each_panel() -> None:
    rows = minutes([Sample(10.0 * n, 10, 50.0, 100, 0, 0.1) for n in range(1, 13)])
    tree = Tree.fromstring(lines(panels(rows)))  # noqa: S314 -- it is our own
    assert len(tree.findall("{*}polyline")) == 5
    assert Tree.fromstring(lines({"empty": [], "zero": [0.0]})) is not None  # noqa: S314
