"""`check` and `explain` judge a VM as its guard does, with its settings, its overrides and what it remembers."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from qmpguard.address import UnixAddress
from qmpguard.cli import main
from qmpguard.policy.device import Device
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.netdevs import netdev
from qmpguard.policy.policy import Policy, Rule
from qmpguard.record import Peer
from qmpguard.remote.effective_policy import effective_policy_at
from tests.daemon.test_console import console_of
from tests.daemon.test_supervisor import fleet_of, vm
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, capabilities

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    import pytest

    from qmpguard.daemon.supervisor import Supervisor

TOGETHER = json.dumps({"execute": "migrate-set-capabilities", "arguments": capabilities(postcopy_ram=True)})
WARNING = Policy(mode=Mode.WARN, profile=Profile.STRICT, rules={"vfio-state-lost": Mode.OFF})


@asynccontextmanager
async def guarded(folder: Path, policy: Policy) -> AsyncGenerator[Supervisor]:
    """A guard with a console, and its VM with a VFIO device."""
    async with (
        FakeQemu(folder / "q") as qemu,
        fleet_of(vm(qemu, policy=policy)) as fleet,
        console_of(fleet, str(folder / "qmpguard-console.sock")),
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        await fleet.guards["one"].vm.connected.wait()
        await fleet.guards["one"].listening.wait()
        yield fleet


async def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    async with asyncio.timeout(TIMEOUT):
        code = await asyncio.to_thread(main, [*map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def way(report: Any, name: str = "postcopy") -> Any:
    return next(each["passes"] for each in report["migrations"] if each["way"] == name)


async def test_a_guard_that_warns_is_said_to_warn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with guarded(tmp_path, WARNING):
        (tmp_path / "x").mkdir()
        report: Any = None
        for address in (tmp_path / "one.sock", f"unix:{tmp_path}/x/../one.sock"):
            code, report = await told(capsys, "check", address)
            assert (code, way(report), report["profile"]) == (0, "warned", "strict")
            assert report["judged_by"] == "the policy of the guard of VM one: mode warn, profile strict"
        code, verdict = await told(capsys, "explain", "--machine", tmp_path / "one.sock", TOGETHER)
        assert (code, verdict["verdict"], verdict["judged_by"]) == (0, "warned", report["judged_by"])


async def test_what_is_overridden_is_no_longer_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with guarded(tmp_path, Policy()) as fleet:
        code, report = await told(capsys, "check", tmp_path / "one.sock")
        assert (code, way(report)) == (1, "no")
        fleet.guards["one"].vm.overrides.begin("vfio-postcopy", 60, "ticket 7", Peer(0))
        code, report = await told(capsys, "check", tmp_path / "one.sock")
        assert way(report) == "warned"
        assert "overridden: vfio-postcopy" in report["judged_by"]


async def test_a_primary_that_only_the_guard_remembers_counts(tmp_path: Path) -> None:
    primary = Device("/machine/peripheral/gpu1", "vfio-pci", "gpu1", failover_pair_id="net0")
    async with guarded(tmp_path, Policy()) as fleet:
        fleet.guards["one"].vm.gate.memory.primaries.add(primary)
        effective = await asyncio.to_thread(effective_policy_at, UnixAddress(str(tmp_path / "one.sock")))
        assert effective.memory.hidden == (primary,)
        assert effective.replaced_by(WARNING, "").memory.hidden == (primary,)


async def test_a_back_end_that_only_the_guard_remembers_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with guarded(tmp_path, Policy()) as fleet:
        fleet.guards["one"].vm.gate.memory.netdevs.add(netdev("vhost-vdpa", "n0"))
        code, report = await told(capsys, "check", tmp_path / "one.sock")
        assert report["machine"]["netdevs"] == [{"type": "vhost-vdpa", "id": "n0"}]
        assert code == 1
        assert await asyncio.to_thread(main, ["check", str(tmp_path / "one.sock")]) == 1
        assert "network back end: n0 (vhost-vdpa)" in capsys.readouterr().out
        code, verdict = await told(capsys, "explain", "--machine", tmp_path / "one.sock", TOGETHER)
        assert code == 1
        assert "netdev n0" in str(verdict)


async def test_rules_that_were_added_are_said_to_be_missing(tmp_path: Path) -> None:
    own = Rule("ours", lambda *_: None, Mode.ENFORCE)
    async with guarded(tmp_path, Policy(plugins=(own,))):
        effective = await asyncio.to_thread(effective_policy_at, UnixAddress(str(tmp_path / "one.sock")))
        assert "without its added rules (ours)" in effective.description


async def test_options_and_a_file_ask_what_if(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = tmp_path / "one.sock"
    file = tmp_path / "config"
    file.write_text('policy = {mode = "warn"}\n[[vm]]\nname = "a"\nqemu = "/a"\nlisten = "/b"\n')
    report: Any = None
    async with guarded(tmp_path, Policy()):
        for words in (
            ["--mode", "warn"],
            ["--rules", "vfio-postcopy=warn"],
            ["--config", file],
            ["--config", file, "--vm", "a"],
        ):
            _, report = await told(capsys, "check", guard, *words)
            assert way(report) == "warned", words
        assert report["judged_by"] == "the given policy: mode warn, profile standard"
        _, report = await told(capsys, "check", guard, "--config", file, "--mode", "enforce")
        assert report["judged_by"] == "the given policy, changed by options: mode enforce, profile standard"
    for words in (
        ["--vm", "a"],
        ["--config", file, "--vm", "b"],
        ["--rules", "x=warn"],
        ["--rules", "vfio-postcopy=x"],
    ):
        assert await asyncio.to_thread(main, ["check", *map(str, [guard, *words])]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_where_no_guard_is_the_default_holds(tmp_path: Path) -> None:
    effective = effective_policy_at(UnixAddress(str(tmp_path / "q")))
    assert effective.policy == Policy()
    assert effective.description.startswith(
        "the default policy, since no guard here says that it listens there: mode enforce"
    )
