"""The drift watch and the schema: what is asked without a client, how often, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

#: between two looks, in seconds
FAST = 0.02


def drifts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().partition("guard: ")[2] for record in caplog.records if "drift" in record.getMessage()]


async def test_what_changes_behind_the_guard_is_logged_once_with_before_and_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path, watch=FAST) as guard:
        await qemu.until("query-migrate", 2)
        qemu.capabilities["postcopy-ram"] = True
        await eventually(lambda: guard.vm.counts.drifts == 1)
        qemu.devices["gpu0"] = "vfio-pci"
        await eventually(lambda: guard.vm.counts.drifts == 2)
        seen = qemu.commands().count("query-migrate")
        await qemu.until("query-migrate", seen + 3)
        assert drifts(caplog) == ["migration capabilities: none -> postcopy-ram", "devices: none -> gpu0"]


async def test_what_changes_through_the_guard_is_no_drift(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, watch=FAST) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        for n in range(5):
            await qemu.until("query-migrate", n + 2)
            await qmp.ask("migrate-set-capabilities", capabilities(xbzrle=bool(n % 2), postcopy_ram=True))
            await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=False))
            await qmp.ask("device_add", {"driver": "vfio-pci", "id": f"gpu{n}"})
            await qmp.ask("device_del", {"id": f"gpu{n}"})
        seen = qemu.commands().count("query-migrate")
        await qemu.until("query-migrate", seen + 3)
        assert guard.vm.counts.drifts == 0


async def test_a_device_that_leaves_when_the_guest_lets_it_is_no_drift(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, watch=FAST) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        qemu.answers["device_del"] = lambda _: {}
        await qmp.ask("device_del", {"id": "gpu0"})
        seen = qemu.commands().count("query-migrate")
        await qemu.until("query-migrate", seen + 3)
        qemu.emit("DEVICE_DELETED", device="gpu0", path="/machine/peripheral/gpu0")
        del qemu.devices["gpu0"]
        assert (await qmp.receive())["event"] == "DEVICE_DELETED"
        seen = qemu.commands().count("query-migrate")
        await qemu.until("query-migrate", seen + 3)
        assert guard.vm.counts.drifts == 0


async def looked(qemu: FakeQemu) -> None:
    """Wait until the guard has looked at QEMU as it is now."""
    seen = qemu.commands().count("query-migrate")
    await qemu.until("query-migrate", seen + 3)


async def test_what_the_guest_or_the_host_brings_about_is_no_drift(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path, watch=FAST) as guard:
        qemu.answers["qom-get"] = lambda request: "net0" if request["arguments"]["property"] != "failover" else True
        qemu.devices["net0"] = "virtio-net-pci"
        await looked(qemu)
        qemu.emit("FAILOVER_NEGOTIATED", **{"device-id": "net0"})
        qemu.devices["hp0"] = "vfio-pci"  # the primary that QEMU had hidden
        await looked(qemu)
        qemu.emit("DEVICE_DELETED", device="hp0", path="/machine/peripheral/hp0")  # the guest ejects it
        del qemu.devices["hp0"]
        await looked(qemu)
        assert guard.vm.counts.drifts == 0


async def test_every_survey_notices_drift_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        await qmp.ask("migrate", {"uri": "exec:cat"})
        qemu.capabilities["xbzrle"] = True
        await qmp.ask("migrate", {"uri": "exec:cat"})
        await qmp.ask("migrate", {"uri": "exec:cat"})
        assert drifts(caplog) == ["migration capabilities: none -> xbzrle"]


async def test_an_idle_guard_sends_nothing_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmpguard.proxy.judging.drift_watch.SETTLE", 0.01)  # a second look too soon would show
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path, watch=3600), connected(tmp_path / "guard.sock"):
        await qemu.until("query-migrate")
        first = [
            "query-named-block-nodes",
            "query-migrate-capabilities",
            "qom-list",
            "qom-list",
            "query-status",
            "query-migrate",
        ]
        assert qemu.commands() == first
        await asyncio.sleep(0.3)
        assert qemu.commands() == first


async def test_a_look_that_fails_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.answers["query-status"] = lambda _: {"class": "GenericError", "desc": "not now"}
        async with guarding(qemu.path, watch=FAST):
            await eventually(lambda: "drift watch failed: QEMU refused query-status: not now" in caplog.text)
            del qemu.answers["query-status"]
            seen = qemu.commands().count("query-migrate")
            await qemu.until("query-migrate", seen + 1)


async def test_while_a_migration_runs_the_guard_looks_every_second(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, watch=3600),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.migration = "active"
        await qmp.ask("migrate", {"uri": "exec:cat"})
        await qemu.until("query-migrate", 3)
        qemu.migration = "completed"


# the schema


def schema_reads(qemu: FakeQemu) -> int:
    return sum(request.get("execute") == "query-qmp-schema" for request in qemu.seen)


async def test_the_schema_is_read_once_after_the_first_client_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        qemu.schema[3]["members"].append({"name": "config", "type": "any"})
        await asyncio.sleep(0.05)
        assert schema_reads(qemu) == 0
        for _ in range(3):
            async with connected(tmp_path / "guard.sock") as qmp:
                await qmp.ask("query-status")
        await eventually(lambda: guard.vm.gate.commands == frozenset({"query-status", "migrate"}))
        qemu.die()
        await eventually(lambda: guard.vm.counts.links == 2)
        async with connected(tmp_path / "guard.sock") as qmp:
            await qmp.ask("query-status")
            assert_refused(await qmp.ask("migrate", {"uri": "tcp:h:1", "config": {}}), "unverified")
        assert schema_reads(qemu) == 1
        assert "QEMU 8.1.0 fake: migrate has an argument 'config' that qmpguard does not know" in caplog.text


async def test_a_schema_that_cannot_be_read_is_tried_again_with_the_next_client(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.answers["query-qmp-schema"] = lambda _: [5]
        await qmp.ask("query-status")
        await eventually(lambda: schema_reads(qemu) == 1)
        del qemu.answers["query-qmp-schema"]
        await eventually(lambda: guard.vm.gate.schema.is_wanted)
        await qmp.ask("query-status")
        await eventually(lambda: guard.vm.gate.commands is not None)


async def test_in_profile_strict_a_command_waits_for_the_schema(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=Policy(profile=Profile.STRICT)),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        assert (await qmp.ask("query-status"))["return"]["status"] == "running"
        assert_refused(await qmp.ask("query-name"), "unknown-command")
        assert_refused(await qmp.ask("__com.redhat_x"), "unknown-command")
        assert schema_reads(qemu) == 1
