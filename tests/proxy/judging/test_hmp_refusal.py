"""A refusal of a line of HMP, as tools for HMP read it: text in a successful reply, as QEMU's own errors are.

A QMP error would be safer to notice for a program, but none expects one here: qemu.qmp's HMP shell fills its list of
commands from ``["return"]`` without a look, and Proxmox and libvirt hand the text on to people.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from qemu.qmp.qmp_shell import HMPShell

from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import connected, guarding

if TYPE_CHECKING:
    from pathlib import Path


def type_into_the_shell(socket: Path, *lines: str) -> None:
    """The HMP shell of qemu.qmp, with somebody who types; in a thread, since it runs a loop of its own."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    shell = HMPShell(str(socket))
    shell.connect(negotiate=True)
    try:
        for line in lines:
            assert shell._execute_cmd(line), "it took the reply for the end"
    finally:
        shell.close()
        loop.close()


async def test_the_hmp_shell_shows_it_as_an_error_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
        qemu.devices["gpu0"] = "vfio-pci"
        qemu.answers["human-monitor-command"] = lambda _: "VM status: running\r\n"
        lines = ("migrate_set_capability postcopy-ram on", "info status")
        await asyncio.to_thread(type_into_the_shell, tmp_path / "guard.sock", *lines)
    refused, shown = capsys.readouterr().out.split("\r\n")[:2]
    assert refused.startswith("Error: gpu0: VFIO migration is not supported with postcopy migration (qmpguard: rule ")
    assert shown.strip() == "VM status: running"


@pytest.mark.parametrize("line", ["migrate_set_capability postcopy-ram on", "object_add {", "stop"])
async def test_it_is_text_that_begins_and_ends_as_qemus_own_errors_do(tmp_path: Path, line: str) -> None:
    policy = Policy(profile=Profile.STRICT)
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=policy),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        said = (await qmp.ask("human-monitor-command", {"command-line": line}))["return"]
    assert said.startswith("Error: ")
    assert said.endswith("\r\n")
    assert said.count("\r\n") == 1
    assert "(qmpguard: rule " in said
