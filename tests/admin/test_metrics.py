"""The metrics: in Prometheus' own eyes, and as the document tells them."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics

from qmpguard.admin import process
from qmpguard.admin.metrics import MetricsCollector, documentation
from qmpguard.proxy.state.counters import Upkeep
from qmpguard.record import Peer
from tests.support.descriptors import open_files
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import capabilities, connected, eventually, guarding
from tests.support.visiting import visiting

ROOT = Path(__file__).parents[2]


def bare(name: str) -> str:
    return name.removesuffix("_total").removesuffix("_info")


def test_the_document_is_written_from_the_table() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == documentation(), "make docs"


async def test_prometheus_reads_them_and_they_are_those_of_the_document(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        qemu.migration, qemu.progress = "active", {"ram": {"transferred": 5, "total": 9}, "vfio": {"transferred": 3}}
        async with (
            guarding(qemu.path, watch=0.02) as guard,
            visiting(tmp_path, guard) as visitor,
            connected(tmp_path / "guard.sock") as qmp,
        ):
            await eventually(lambda: guard.vm.snapshot().history.status == "active")
            await qmp.ask("query-status")
            await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
            text = (await visitor.get("/metrics"))[1]
            strict = (await visitor.get("/metrics", Accept="application/openmetrics-text; version=1.0.0"))[1]
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    values = {
        (sample.name, *(value for label, value in sorted(sample.labels.items()) if label != "vm")): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert values["qmpguard_upstream_up",] == values["qmpguard_upstream_answers",] == 1
    assert values["qmpguard_clients",] == 1
    assert values["qmpguard_commands_total", "passed"] == 1
    assert values["qmpguard_commands_total", "refused"] == 1
    assert values["qmpguard_decisions_total", "enforce", "vfio-postcopy", "refused"] == 1
    assert values["qmpguard_vfio_devices",] == 1
    assert values["qmpguard_vfio_transferred_bytes",] == 3
    assert values["qmpguard_migration_status", "active"] == 1
    assert values["qmpguard_migration_status", "none"] == 0
    assert values["qmpguard_may_migrate", "plain"] == 1
    assert values["qmpguard_may_migrate", "postcopy"] == 0
    assert values["qmpguard_survey_seconds_count",] == values["qmpguard_command_seconds_count",] == 1
    told = {bare(name) for name in re.findall(r"^\| `(\w+)`", documentation(), re.MULTILINE)}
    assert told == {bare(name) for name in families}
    assert {family.name for family in read_openmetrics(strict)} == told  # type: ignore[no-untyped-call]
    ours = {"qmpguard_build", "qmpguard_reloads", "qmpguard_lines_lost", "qmpguard_admin_drops"}
    of_vms = [f for name, f in families.items() if bare(name) not in ours and not name.startswith("process_")]
    labels = [sample.labels for family in of_vms for sample in family.samples]
    assert {one.get("vm") for one in labels} == {"test"}


async def test_an_override_shows_while_it_lasts(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard:
        meter = MetricsCollector(lambda: [guard.vm.snapshot()], Upkeep)
        shown = []
        for change in (None, lambda on: on.begin("hmp-write", 60, "a test", Peer(1)), lambda on: on.end("hmp-write")):
            if change is not None:
                change(guard.vm.overrides)
            (family,) = (family for family in meter.collect() if family.name == "qmpguard_override_active")
            shown += [(sample.labels, sample.value) for sample in family.samples]
    assert shown == [({"vm": "test"}, value) for value in (0, 1, 0)]


async def test_what_is_not_known_is_absent_and_not_zero(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, visiting(tmp_path, guard) as visitor:
        text = (await visitor.get("/metrics"))[1]
    assert 'qmpguard_upstream_up{vm="test"} 0.0' in text
    for name in ("vfio_devices", "may_migrate", "vfio_transferred_bytes", "upstream_answers", "capability_on"):
        assert f"qmpguard_{name}{{" not in text


async def test_a_status_that_is_not_known_is_other_and_makes_no_label(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.migration = "warp"
        async with guarding(qemu.path, watch=0.02) as guard, visiting(tmp_path, guard) as visitor:
            await eventually(lambda: guard.vm.snapshot().history.status == "warp")
            text = (await visitor.get("/metrics"))[1]
    assert "warp" not in text
    assert 'qmpguard_migration_status{status="other",vm="test"} 1.0' in text


def test_what_the_process_counts_has_no_vm() -> None:
    meter = MetricsCollector(list, lambda: Upkeep(reloads=2, failed_reloads=1, lost={"audit": 3}))
    samples = {(s.name, *s.labels.values()): s.value for family in meter.collect() for s in family.samples}
    assert samples["qmpguard_reloads_total", "done"] == 2
    assert samples["qmpguard_reloads_total", "failed"] == 1
    assert samples["qmpguard_lines_lost_total", "audit"] == 3


def test_the_process_tells_what_it_uses_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {sample.name: sample.value for metric in process.metrics() for sample in metric.samples}
    booted = next(
        int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")
    )
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert values["process_start_time_seconds"] == pytest.approx(booted + ticks / os.sysconf("SC_CLK_TCK"), abs=2)
    assert values["process_open_fds"] == len(open_files())
    assert values["process_cpu_seconds_total"] == pytest.approx(sum(os.times()[:2]), abs=0.1)
    assert values["process_virtual_memory_bytes"] > values["process_resident_memory_bytes"] > 1 << 20
    assert values["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(process, "_STAT", Path("/proc/nothing"))
    assert list(process.metrics()) == [], "what cannot be read is absent, and the scrape goes on"
