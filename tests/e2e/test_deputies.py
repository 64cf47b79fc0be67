"""QEMU as a deputy against its own monitor, by each of its ways, on real QEMUs behind a guard in profile strict."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from qmpguard.policy.reading.objects import MONITOR_PROPERTIES
from tests.support.deputy import attack, deputy, descriptor_of, ways
from tests.support.guarding import TIMEOUT, assert_refused, connected, guarding

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]
STRICT = Policy(profile=Profile.STRICT)


@pytest.mark.parametrize("binary", QEMUS)
async def test_qemu_is_not_made_to_connect_to_its_own_monitor(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with (
        Qemu(binary(), tmp_path, monitors=2, machine="pc") as qemu,
        guarding(qemu.monitors[0], policy=STRICT) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        for path in (str(qemu.monitors[0]), f"/proc/self/root{qemu.monitors[1]}", str(tmp_path / "guard.sock")):
            for command, arguments in ways(path):
                assert_refused(await qmp.ask(command, arguments), "own-socket")
        label = next(
            device["label"]
            for device in (await qmp.ask("query-chardev"))["return"]
            if str(qemu.monitors[0]) in device["filename"]
        )
        cut = [{"type": "chardev", "id": label}]
        assert_refused(await qmp.ask("yank", {"instances": cut}), "own-socket")
        assert_refused(await qmp.ask("object-add", {"qom-type": "qtest", "id": "q", "chardev": "c"}), "own-socket")
        assert guard.vm.counts.links == 1  # it was never cut
        for i in range(len(ways(""))):  # each at its own place: where QEMU listens already it would be refused
            command, arguments = ways(str(tmp_path / f"elsewhere{i}"))[i]
            assert "qmpguard" not in str(await qmp.ask(command, arguments))


@pytest.mark.parametrize("binary", QEMUS)
async def test_a_connection_of_qemus_monitor_is_not_named_by_its_number(
    tmp_path: Path, binary: Callable[[], Path]
) -> None:
    """In profile standard the client of another monitor hears what a network device says."""
    async with (
        Qemu(binary(), tmp_path, monitors=2, machine="pc") as qemu,
        connected(qemu.monitors[1]) as other,
    ):
        number = descriptor_of(qemu.process.pid, qemu.monitors[1])
        async with guarding(qemu.monitors[0], policy=STRICT), connected(tmp_path / "guard.sock") as qmp:
            for spelled in (f"{number}", f"0{number}", f"+{number}", f" {number}"):
                stream = {"type": "stream", "id": "out", "server": False, "addr": {"type": "fd", "str": spelled}}
                reply = await qmp.ask("netdev_add", stream)
                assert_refused(reply, "own-socket")
                assert "getfd" in reply["error"]["desc"]
                for line in (
                    f"netdev_add tap,id=n,fd={spelled.strip()}",
                    f"chardev-add socket,id=c,fd={spelled.strip()}",
                ):
                    assert (
                        "qmpguard: rule" in (await qmp.ask("human-monitor-command", {"command-line": line}))["return"]
                    )
            assert await other.ask("query-name") == {"return": {}}
            assert descriptor_of(qemu.process.pid, qemu.monitors[1]) == number
        async with guarding(qemu.monitors[0]), connected(tmp_path / "guard.sock") as qmp, asyncio.timeout(TIMEOUT):
            port, heard = await deputy(qmp, {"type": "fd", "str": f"+{number}"}), b""
            while b"postcopy-ram" not in heard:
                attack(port)
                with suppress(TimeoutError):  # the first ones come before the hub is there
                    async with asyncio.timeout(0.1):
                        heard += await other.reader.read(9999)
            assert b"qmp_capabilities" in heard


@pytest.mark.qemu11
@pytest.mark.parametrize("profile", list(Profile))
async def test_monitors_that_are_objects_are_neither_changed_nor_removed(tmp_path: Path, profile: Profile) -> None:
    async with (
        Qemu(vfio_qemu(), tmp_path, monitors=2, machine="pc") as qemu,
        guarding(qemu.monitors[0], policy=Policy(profile=profile)),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        objects = (await qmp.ask("qom-list", {"path": "/objects"}))["return"]
        monitors = [entry["name"] for entry in objects if entry["type"].startswith("child<monitor-")]
        assert len(monitors) == 3  # two sockets, and the one by which the test knows that QEMU is ready
        for name in monitors:
            properties = (await qmp.ask("qom-list", {"path": f"/objects/{name}"}))["return"]
            assert {entry["name"] for entry in properties} - {"type"} <= MONITOR_PROPERTIES
            assert_refused(await qmp.ask("object-del", {"id": name}), "monitor-object")
            change = {"path": f"/objects/{name}", "property": "close-action", "value": "delete"}
            assert_refused(await qmp.ask("qom-set", change), "monitor-object")
            # QEMU itself finds this one ambiguous: the character device is called so too
            assert "error" in await qmp.ask("qom-set", {**change, "path": name})
            line = f"object_del {name}"
            assert "monitor-object" in (await qmp.ask("human-monitor-command", {"command-line": line}))["return"]
        assert (await qmp.ask("qom-list", {"path": "/objects"}))["return"] == objects
        assert await qmp.ask("object-add", {"qom-type": "rng-builtin", "id": "r"}) == {"return": {}}
        assert await qmp.ask("object-del", {"id": "r"}) == {"return": {}}
