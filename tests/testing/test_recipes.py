"""The recipes of docs/testing.md, with the clients that they name."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from qemu.qmp import ExecuteError

from qmpguard.testing import QmpSocket, assert_refused, qmp_client, refusal_of
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture
from tests.support.stderr import listening

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.testing.machines import GuardedQemu

ON = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
GPU = pytest.mark.simulated(devices=[{"driver": "vfio-pci", "id": "gpu0"}])
GUARDED = pytest.mark.guarded("simulated_qemu")
#: a program under test, of some other language
PROGRAM = """
import sys; from qmpguard.testing import QmpSocket
with QmpSocket(sys.argv[1]) as qmp:
    print(qmp.execute("query-status")["return"]["status"])
"""


@GUARDED
@GPU
async def test_with_qmpclient(guarded_qemu: GuardedQemu) -> None:
    async with qmp_client(guarded_qemu.path) as client:
        with pytest.raises(ExecuteError) as refused:
            await client.execute("migrate-set-capabilities", ON)
    assert refusal_of(refused.value) == "vfio-postcopy"


@GUARDED
def test_with_a_subprocess(guarded_qemu: GuardedQemu) -> None:
    command = [sys.executable, "-c", PROGRAM, str(guarded_qemu.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "running\n"


async def test_with_processes_that_a_test_class_starts(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").write_text('[[device]]\ndriver = "vfio-pci"\nid = "gpu0"\n')
    guard = ("run", "--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "g"))
    simulated = ("simulate", str(tmp_path / "q"), str(tmp_path / "vm.toml"))
    for words in (guard, simulated):
        await start_process(sys.executable, "-m", "qmpguard", *words)
    await listening(tmp_path / "g")
    with QmpSocket(tmp_path / "g") as qmp:
        assert_refused(qmp.execute("migrate-set-capabilities", **ON), "vfio-postcopy")
