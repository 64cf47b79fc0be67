"""The public names, as a test suite that drives QEMU uses them."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qmpguard
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected

ROOT = Path(__file__).parents[1]
#: what people copy from
FILES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.py")]


async def test_a_qemu_is_guarded_for_as_long_as_the_block_lasts(tmp_path: Path) -> None:
    listen = tmp_path / "guard.sock"
    async with FakeQemu(tmp_path / "qemu.sock") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        async with (
            qmpguard.guarding(str(qemu.path), f"unix:{listen}", name="mine") as guard,
            connected(listen) as client,
        ):
            reply = await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
            assert_refused(reply, "vfio-postcopy")
            assert guard.refused == 1
        assert not listen.exists()


async def test_a_policy_may_be_given(tmp_path: Path) -> None:
    listen = tmp_path / "guard.sock"
    policy = qmpguard.Policy(mode=qmpguard.Mode.WARN)
    async with FakeQemu(tmp_path / "qemu.sock") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        async with qmpguard.guarding(str(qemu.path), str(listen), policy=policy), connected(listen) as client:
            reply = await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
            assert reply == {"return": {}}


async def test_a_guard_tells_what_it_has_decided_and_what_it_knows(tmp_path: Path) -> None:
    listen = tmp_path / "guard.sock"
    async with FakeQemu(tmp_path / "qemu.sock") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        async with qmpguard.guarding(str(qemu.path), str(listen)) as guard, connected(listen) as client:
            assert guard.decisions() == ()
            assert "return" in await client.ask("migrate-set-capabilities", capabilities(xbzrle=True))
            assert "error" in await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
            (refused,) = guard.decisions()
            assert refused.outcome is qmpguard.Outcome.REFUSED
            assert refused.verdict.refusal is not None
            assert refused.verdict.refusal.rule == "vfio-postcopy"
            snapshot = guard.snapshot()
            assert snapshot.link.up
            assert [device.id for device in snapshot.facts.devices or ()] == ["gpu0"]


async def test_a_live_vm_can_be_checked(tmp_path: Path) -> None:
    listen = str(tmp_path / "guard.sock")
    async with FakeQemu(tmp_path / "qemu.sock") as qemu, qmpguard.guarding(str(qemu.path), listen):
        assert not (await qmpguard.check(listen)).refuses
        qemu.devices["gpu0"] = "vfio-pci"
        report = await qmpguard.check(listen)
        assert report.refuses
        assert {p.way: p.rule for p, _ in report.forecasts if p.way == "postcopy"} == {"postcopy": "vfio-postcopy"}


async def test_no_qemu_is_said_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmpguard.embedding.START_TIMEOUT", 0.05)
    with pytest.raises(qmpguard.UnavailableError, match="did not answer"):
        async with qmpguard.guarding(str(tmp_path / "none"), str(tmp_path / "guard.sock")):
            pass
    assert not (tmp_path / "guard.sock").exists()


async def test_what_is_no_address_is_said(tmp_path: Path) -> None:
    with pytest.raises(qmpguard.UsageError):
        await qmpguard.check("tcp:nonsense")
    with pytest.raises(qmpguard.UsageError):
        async with qmpguard.guarding("tcp:nonsense", str(tmp_path / "guard.sock")):
            pass


async def test_an_address_where_nothing_listens_is_said(tmp_path: Path) -> None:
    with pytest.raises(qmpguard.UnavailableError):
        await qmpguard.check(str(tmp_path / "none"))


async def test_what_the_block_raises_stays_what_it_is(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "qemu.sock") as qemu:
        with pytest.raises(ZeroDivisionError):
            async with qmpguard.guarding(str(qemu.path), str(tmp_path / "guard.sock")):
                _ = 1 / 0


def test_every_public_name_is_there_and_can_be_found() -> None:
    assert all(getattr(qmpguard, name) is not None for name in qmpguard.__all__)
    assert set(qmpguard.__all__) <= set(dir(qmpguard))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = qmpguard.nonsense


def test_every_error_that_is_documented_as_raised_is_public() -> None:
    texts = [inspect.getdoc(getattr(qmpguard, name)) or "" for name in qmpguard.__all__]
    raised = {
        name
        for text in texts
        for part in re.findall(r"Raises (.+?)\.(?:\s|$)", text, re.DOTALL)
        for name in re.findall(r"`(\w+Error)`", part)
    }
    assert raised == {"UnavailableError", "UsageError"}
    assert raised <= set(qmpguard.__all__)


def test_documents_and_examples_use_public_names_only() -> None:
    used = [name for file in FILES for name in re.findall(r"\bqmpguard\.(\w+)\(", file.read_text())]
    used += [
        name.strip()
        for file in FILES
        for line in re.findall(r"^from qmpguard import (.+)$", file.read_text(), re.MULTILINE)
        for name in line.split(",")
    ]
    assert {"guarding", "check", "Machine"} <= set(used) <= set(qmpguard.__all__)
    assert not [
        file
        for file in FILES
        if re.search(r"from qmpguard\.(?!testing import)|import qmpguard\.|\bguard\.hub\b", file.read_text())
    ]


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, qmpguard; print(*[m for m in sys.modules if m.startswith(('qmpguard.', 'asyncio'))])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["qmpguard.version"]
