"""The snapshot: what is told of a VM without asking it, and what is counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.forecast import Passes
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.qemu import heartbeat
from qmpguard.proxy.qemu.connections import Presence
from qmpguard.proxy.qemu.heartbeat import HEARTBEAT_TIMEOUT, INTERVAL
from qmpguard.proxy.state.counters import DROP_REASONS, Counters
from qmpguard.proxy.state.snapshot import Pulse
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from pathlib import Path

FAST = 0.02


async def test_it_tells_what_qemu_has_shown(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices |= {"gpu0": "vfio-pci", "net0": "virtio-net-pci"}
        qemu.capabilities["xbzrle"] = True
        async with guarding(qemu.path, watch=FAST) as guard, connected(tmp_path / "guard.sock"):
            await eventually(lambda: guard.vm.gate.last_seen.facts.migration is not None)
            shot = guard.vm.snapshot()
    assert (shot.name, shot.qemu.version, shot.qemu.package, shot.link.up) == ("test", "8.1.0", "fake", True)
    assert [device.name for device in shot.facts.details or ()] == ["gpu0"]
    assert shot.facts.capabilities == frozenset({"xbzrle"})
    assert shot.facts.runstate == "running"
    assert [(client.peer.number, client.state) for client in shot.clients] == [(1, "commands")]
    assert [forecast.passes for forecast in shot.forecasts] == [Passes.YES, Passes.YES, Passes.NO, Passes.NO]
    assert dict(shot.judging.modes)["vfio-postcopy"] is Mode.ENFORCE
    assert shot.faults == ()


async def test_it_asks_qemu_nothing(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        for _ in range(100):
            guard.vm.snapshot()
        await asyncio.sleep(0.05)
        assert qemu.commands() == []


async def test_a_way_around_the_guard_shows_as_long_as_that_qemu_lives(tmp_path: Path) -> None:
    """Also when the rule is enforced again: what was let through cannot be taken back."""
    monitor = {"qom-type": "monitor-qmp", "id": "m", "chardev": "c"}
    warn = Policy(rules={"new-monitor": Mode.WARN})
    told = "object-add of 'monitor-qmp' was let through: there may be a way around the guard"
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        assert_refused(await qmp.ask("object-add", monitor), "new-monitor")
        assert guard.vm.snapshot().notes == ()
        guard.vm.gate.adopt(warn, 20.0)
        for _ in range(2):
            assert await qmp.ask("object-add", monitor) == {"return": {}}
        assert guard.vm.snapshot().notes[1:] == (told,)
        assert "new-monitor is in mode warn" in guard.vm.snapshot().notes[0]
        guard.vm.gate.adopt(Policy(), 20.0)
        assert guard.vm.snapshot().notes == (told,)
        qemu.die()
        await eventually(lambda: qemu.connections == 2 and guard.vm.connected.is_set())
        assert guard.vm.snapshot().notes == (told,)
        await qemu.stop()
        await qemu.start()
        await eventually(lambda: qemu.connections == 3 and guard.vm.connected.is_set())
        assert guard.vm.snapshot().notes == ()


async def test_a_monitor_that_qemu_refused_is_none(tmp_path: Path) -> None:
    warn = Policy(rules={"new-monitor": Mode.WARN})
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=warn) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.answers["object-add"] = lambda _: {"class": "GenericError", "desc": "invalid object type: monitor-qmp"}
        assert "error" in await qmp.ask("object-add", {"qom-type": "monitor-qmp", "id": "m"})
        assert len(guard.vm.snapshot().notes) == 1


async def test_without_qemu_it_says_so_and_promises_nothing(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard:
        await eventually(lambda: guard.vm.snapshot().link.cause == "missing")
        told = "no link to QEMU: no such socket: QEMU is not running, or the path is wrong"
        assert guard.vm.snapshot().faults == (told,)
        async with FakeQemu(tmp_path / "q"):
            await eventually(lambda: guard.vm.snapshot().link.up)
        await eventually(lambda: not guard.vm.snapshot().link.up)
        assert guard.vm.snapshot().faults == ("no link to QEMU: QEMU closed the connection",)
        await eventually(lambda: guard.vm.snapshot().link.cause in ("missing", "nobody_listens"))
        shot = guard.vm.snapshot()
    assert guard.vm.connections.presence is Presence.ENDED
    assert {forecast.passes for forecast in shot.forecasts} == {Passes.UNKNOWN}
    assert shot.qemu.pulse is Pulse.UNKNOWN


async def test_a_silent_qemu_is_told_from_a_busy_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", FAST)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_TIMEOUT", FAST)
    monkeypatch.setattr("qmpguard.proxy.vm.BUSY", 0.01)
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.hold = {"query-migrate"}
        async with guarding(qemu.path, watch=FAST) as guard:
            await eventually(lambda: guard.vm.snapshot().qemu.pulse is Pulse.BUSY)
            assert guard.vm.snapshot().faults == ()
            qemu.silent = True
            await eventually(lambda: guard.vm.snapshot().qemu.pulse is Pulse.SILENT)
            assert guard.vm.snapshot().faults == ("QEMU does not answer: it is stopped or hangs",)
            qemu.silent = False
            qemu.let_go()
            await eventually(lambda: guard.vm.snapshot().qemu.pulse is Pulse.OK)


def test_a_qemu_that_stops_is_noticed_within_20_seconds() -> None:
    assert INTERVAL + HEARTBEAT_TIMEOUT < 20


async def test_a_migration_that_is_let_through_is_watched_from_its_beginning(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, watch=3600) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        await eventually(lambda: guard.vm.gate.last_seen.facts.migration is not None)
        await qmp.ask("migrate", {"uri": "tcp:h:1"})
        assert guard.vm.snapshot().history.status == "setup"
        qemu.progress = {"ram": {"transferred": 5, "total": 9}, "vfio": {"transferred": 3}}
        qemu.migration = "active"
        await eventually(lambda: guard.vm.snapshot().history.status == "active")
        progress = guard.vm.snapshot().history.progress
        assert progress is not None
        assert progress.vfio == 3
        qemu.migration = "completed"
        await eventually(lambda: guard.vm.snapshot().history.status == "completed")


async def test_every_kind_of_happening_is_counted(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        counts = guard.vm.counts
        await qmp.ask("query-status")
        await qmp.ask("query-status")
        await qmp.ask("migrate", {"uri": "tcp:h:1"})
        assert_refused(await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=True)), "vfio-postcopy")
        qmp.raw(b"}")
        assert "error" in await qmp.receive()
        qemu.emit("STOP")
        assert (await qmp.receive())["event"] == "STOP"
        assert (counts.passed, counts.allowed, counts.refused, counts.warned) == (2, 1, 1, 0)
        assert (counts.malformed, counts.events, counts.links, counts.clients) == (1, 1, 1, 1)
        assert dict(counts.decisions) == {("none", "allowed", "none"): 1, ("vfio-postcopy", "refused", "enforce"): 1}
        assert sum(counts.commands.counts) == sum(guard.vm.gate.surveys.counts) == 2
        qemu.die()
        assert await qmp.closed()
        await eventually(lambda: counts.links == 2)
        assert dict(counts.drops) == {"qemu_gone": 1}


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        (CloseReason.ENDED, None),
        (CloseReason.STOPPED, None),
        (CloseReason.QEMU_GONE, "qemu_gone"),
        (CloseReason.QEMU_ABSENT, "qemu_absent"),
        (CloseReason.DOES_NOT_READ, "does_not_read"),
        (CloseReason.TOO_MUCH_HELD, "too_much_held"),
        (CloseReason.LOST_DESCRIPTORS, "descriptors"),
        (CloseReason.NO_DESCRIPTORS, "no_descriptors"),
        (CloseReason.FAILED, "guard_failed"),
        (CloseReason.BROKEN, "connection_broken"),
    ],
)
def test_the_reasons_of_drops_are_few(reason: CloseReason, label: str | None) -> None:
    counts = Counters()
    counts.on_client_closed(reason)
    assert list(counts.drops) == ([] if label is None else [label])
    assert label is None or label in DROP_REASONS


async def test_clients_that_wait_for_qemu_are_told_of_with_their_limit(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard:
        assert not any("waiting for QEMU" in note for note in guard.vm.snapshot().notes)
        _, writer = await asyncio.open_unix_connection(tmp_path / "guard.sock")
        await eventually(lambda: "1 client waiting for QEMU, 60 s each at most" in guard.vm.snapshot().notes)
        writer.close()
