"""`qmpguard record`: a whole conversation with a real QEMU, which can be judged again."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from qmpguard.cli import main
from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from tests.support.guarding import capabilities, connected
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture
from tests.support.stderr import listening

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.qemu
async def test_a_conversation_with_a_real_qemu_is_recorded_and_judged_the_same_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recording.jsonl"
    async with Qemu(system_qemu(), tmp_path, machine="pc") as qemu:
        words = ("record", str(qemu.monitors[0]), str(file))
        process = await start_process(sys.executable, "-m", "qmpguard", *words)
        await listening(tmp_path / "recording.jsonl.sock")
        async with connected(tmp_path / "recording.jsonl.sock") as client:
            assert "return" in await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
            assert "return" in await client.ask("stop")
            assert "error" in await client.ask("no-such-command")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["recording"] == 1
    mine = [line["execute"] for line in lines if isinstance(line.get("client"), int) and "execute" in line]
    assert [one for one in mine if one != "qmp_capabilities"] == ["migrate-set-capabilities", "stop", "no-such-command"]
    assert "STOP" in [line.get("event") for line in lines]
    assert main(["replay", str(file)]) == 0
    assert capsys.readouterr().out.endswith("commands judged again, 0 not; verdicts that differ: 0\n")
