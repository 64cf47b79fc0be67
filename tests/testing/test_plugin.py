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
        FIRST
        + """
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


def test_with_and_without_pytest_asyncio_and_in_parallel(pytester: pytest.Pytester) -> None:
    text = (
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
    run(pytester, text).assert_outcomes(passed=2)
    run(pytester, text, "-n", "2").assert_outcomes(passed=2)
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
