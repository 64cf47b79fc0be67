"""The pytest plugin, in runs of its own: what its fixtures yield, and what is said where a QEMU is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

pytest_plugins = ["pytester"]

#: where QEMU 11.1 was unpacked; pytester sets another HOME
CACHE = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
#: the test of README.md
FIRST = """
import pytest
from qmpguard.testing import assert_refused

@pytest.mark.guarded("simulated_qemu")
@pytest.mark.simulated(devices=[{"driver": "vfio-pci", "id": "gpu0"}])
def test_postcopy_is_refused(guarded_qemu):
    on = [{"capability": "postcopy-ram", "state": True}]
    assert_refused(guarded_qemu.execute("migrate-set-capabilities", capabilities=on), "vfio-postcopy")
"""


def run(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", "-W", "error", *options)


def test_the_first_test(pytester: pytest.Pytester) -> None:
    run(pytester, FIRST).assert_outcomes(passed=1)


def test_a_guard_tells_what_it_has_decided(pytester: pytest.Pytester) -> None:
    text = (
        FIRST.replace("(guarded_qemu)", "(guarded_qemu, caplog)")
        + """
    assert "verdict=refused rule=vfio-postcopy" in caplog.text
    assert guarded_qemu.refused == 1
    (decision,) = guarded_qemu.decisions()
    assert decision.verdict.refusal.rule == "vfio-postcopy"
    assert guarded_qemu.snapshot().link.up
    assert "migrate-set-capabilities" not in guarded_qemu.qemu.commands
"""
    )
    run(pytester, text).assert_outcomes(passed=1)


def test_the_policy_comes_by_the_marker(pytester: pytest.Pytester) -> None:
    text = FIRST.replace('"simulated_qemu"', '"simulated_qemu", mode="warn"')
    result = run(pytester, text)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: not refused: {'return': {}}"])


def test_a_simulated_qemu_by_a_file(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("old.toml").write_text('version = "7.2"\n')
    text = """
import pytest

@pytest.mark.simulated("old.toml")
def test_it(simulated_qemu):
    assert simulated_qemu.execute("query-version")["return"]["qemu"]["major"] == 7
    assert simulated_qemu.commands == ["query-version"]
"""
    run(pytester, text).assert_outcomes(passed=1)


WITH_COROUTINE = (
    FIRST
    + """
@pytest.mark.asyncio
@pytest.mark.guarded("simulated_qemu")
async def test_from_a_coroutine(guarded_qemu):
    from qemu.qmp import QMPClient
    client = QMPClient("test")
    await client.connect(str(guarded_qemu.path))
    assert await client.execute("query-status") == {"status": "running", "running": True}
    await client.disconnect()
"""
)


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "in parallel"])
def test_with_pytest_asyncio(pytester: pytest.Pytester, options: Sequence[str]) -> None:
    run(pytester, WITH_COROUTINE, *options).assert_outcomes(passed=2)


def test_without_pytest_asyncio(pytester: pytest.Pytester) -> None:
    run(pytester, FIRST, "-p", "no:asyncio", "-W", "ignore::pytest.PytestConfigWarning").assert_outcomes(passed=1)


@pytest.mark.qemu
def test_a_real_qemu_alone_and_guarded(pytester: pytest.Pytester) -> None:
    text = """
import pytest
from qmpguard.testing import QmpSocket

@pytest.mark.qemu_options("-device", "virtio-rng-pci,id=rng0", machine="q35")
@pytest.mark.guarded("qemu", extra_types=["virtio-rng-pci"])
def test_it(guarded_qemu):
    on = [{"capability": "postcopy-ram", "state": True}]
    assert "error" in guarded_qemu.execute("migrate-set-capabilities", capabilities=on)

def test_alone(qemu):
    assert qemu.execute("query-status")["return"]["running"]

def test_same(assert_same_as_qemu):
    def client(path):
        with QmpSocket(path) as qmp:
            return [qmp.greeting, qmp.execute("query-status"), qmp.execute("nonsense"), qmp.execute("query-cpus-fast")]
    assert_same_as_qemu(client)

def test_not_same(assert_same_as_qemu):
    with pytest.raises(AssertionError, match="guard: .*guard.sock"):
        assert_same_as_qemu(str)
"""
    run(pytester, text).assert_outcomes(passed=4)


@pytest.mark.qemu
def test_several_qemus_and_guards_with_clients_of_each_kind(pytester: pytest.Pytester) -> None:
    text = """
import pytest
from qmpguard.demo.lab import system_qemu
from qmpguard.testing import assert_refused, qmp_client, refusal_of

ON = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
RNG = ("-device", "virtio-rng-pci")

@pytest.mark.asyncio
async def test_two(start_qemu, start_guard):
    here, there = start_qemu(*RNG, monitors=2), start_qemu("-incoming", "defer")
    assert here.pid != there.pid and here.path != there.path
    one, two = start_guard(here, extra_types=["virtio-rng-pci"]), start_guard(str(there.path), mode="warn")
    async with qmp_client(one.path) as client:
        with pytest.raises(Exception) as refused:
            await client.execute("migrate-set-capabilities", ON)
    assert refusal_of(refused.value) == "vfio-postcopy"
    assert (one.refused, two.refused) == (1, 0)
    assert one.connect().execute("query-status")["return"]["running"]
    assert here.connect(here.others[0]).execute("query-status")["return"]["running"]
    assert two.execute("query-status")["return"]["status"] == "inmigrate"

@pytest.mark.usefixtures("qemu_binary")
@pytest.mark.parametrize("qemu_binary", [system_qemu, str(system_qemu())], indirect=True)
def test_on_each(qemu, qemu_binary):
    assert qemu_binary == system_qemu()
    assert qemu.execute("query-name") == {"return": {}}

@pytest.fixture
def own(start_qemu):
    return start_qemu(*RNG)

@pytest.mark.guarded("own", extra_types=["virtio-rng-pci"])
def test_a_fixture_of_ones_own_is_guarded(guarded_qemu):
    assert_refused(guarded_qemu.execute("migrate-set-capabilities", **ON), "vfio-postcopy")

class TestOther:
    @pytest.fixture
    def qemu_binary(self):
        return "/bin/false"

    def test_overridden(self, start_qemu):
        with pytest.raises(RuntimeError, match="/bin/false"):
            start_qemu()
"""
    run(pytester, text).assert_outcomes(passed=5)


@pytest.mark.qemu11
def test_a_vfio_device_can_be_plugged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    text = """
from qmpguard.demo.lab import vfio_qemu

def test_it(start_qemu, start_guard, vfio_device):
    guarded = start_guard(start_qemu(binary=vfio_qemu()))
    assert guarded.execute("device_add", **vfio_device) == {"return": {}}
    (device,) = [d for d in guarded.execute("qom-list", path="/machine/peripheral")["return"] if d["name"] == "gpu0"]
    assert device["type"] == "child<vfio-user-pci>"
"""
    run(pytester, text).assert_outcomes(passed=1)


@pytest.mark.qemu11
def test_a_real_qemu_with_a_vfio_device(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    text = """
import pytest
from qmpguard.testing import refusal_of

@pytest.mark.guarded("qemu_with_vfio")
def test_it(guarded_qemu):
    on = [{"capability": "postcopy-ram", "state": True}]
    assert refusal_of(guarded_qemu.execute("migrate-set-capabilities", capabilities=on)) == "vfio-postcopy"
"""
    run(pytester, text).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("setting", "options", "outcome"),
    [("", (), "skipped"), ("fail", (), "failed"), ("", ("-o", "qmpguard_missing_qemu=fail"), "failed")],
)
def test_a_missing_qemu_is_one_line(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, setting: str, options: Sequence[str], outcome: str
) -> None:
    monkeypatch.setenv("QMPGUARD_QEMU_BINARY", "/nowhere/qemu")
    monkeypatch.delenv("QMPGUARD_TESTING_MISSING", raising=False)
    if setting:
        monkeypatch.setenv("QMPGUARD_TESTING_MISSING", setting)
    result = run(pytester, "def test_it(qemu): pass", "-rs", *options)
    (errors, failed) = (1, 0) if outcome == "failed" else (0, 1)
    result.assert_outcomes(errors=errors, skipped=failed)
    assert "QMPGUARD_QEMU_BINARY=/nowhere/qemu is not a program" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_loading_the_plugin_imports_nothing_of_the_guard() -> None:
    code = "import sys, qmpguard.testing.plugin; print(*[m for m in sys.modules if m.startswith('qmpguard.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if not name.startswith("qmpguard.testing")} == {"qmpguard.version"}
