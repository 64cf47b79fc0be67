"""QEMU as a deputy against its own monitor, by each of its ways, on real QEMUs behind a guard in profile strict."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.qemu import Qemu
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from qmpguard.policy.reading.objects import MONITOR_PROPERTIES
from tests.support.deputy import attack, deputy, descriptor_of, ways
from tests.support.guarding import TIMEOUT, assert_refused, connected, guarding
from tests.support.qemus import QEMUS, on_each, on_new

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qmpguard.testing.machines import GuardedQemu, TestedQemu
    from qmpguard.testing.plugin import StartGuard

pytestmark = pytest.mark.qemu_options(monitors=2)


@on_each
@pytest.mark.guarded("qemu", profile="strict")
def test_qemu_is_not_made_to_connect_to_its_own_monitor(guarded_qemu: GuardedQemu, tmp_path: Path) -> None:
    ask, qemu = guarded_qemu.execute, guarded_qemu.qemu
    for path in (str(qemu.path), f"/proc/self/root{qemu.others[0]}", str(guarded_qemu.path)):
        for command, arguments in ways(path):
            assert_refused(ask(command, **arguments), "own-socket")
    label = next(device["label"] for device in ask("query-chardev")["return"] if str(qemu.path) in device["filename"])
    cut = [{"type": "chardev", "id": label}]
    assert_refused(ask("yank", instances=cut), "own-socket")
    assert_refused(ask("object-add", **{"qom-type": "qtest", "id": "q", "chardev": "c"}), "own-socket")
    assert guarded_qemu.snapshot().counts.links == 1  # it was never cut
    for i in range(len(ways(""))):  # each at its own place: where QEMU listens already it would be refused
        command, arguments = ways(str(tmp_path / f"elsewhere{i}"))[i]
        assert "qmpguard" not in str(ask(command, **arguments))


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
        async with (
            guarding(qemu.monitors[0], policy=Policy(profile=Profile.STRICT)),
            connected(tmp_path / "guard.sock") as qmp,
        ):
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


@on_new
@pytest.mark.parametrize("profile", ["standard", "strict"])
def test_monitors_that_are_objects_are_neither_changed_nor_removed(
    qemu: TestedQemu, start_guard: StartGuard, profile: str
) -> None:
    ask = start_guard(qemu, profile=profile).execute
    objects = ask("qom-list", path="/objects")["return"]
    monitors = [entry["name"] for entry in objects if entry["type"].startswith("child<monitor-")]
    assert len(monitors) == 3  # two sockets, and the one by which the test knows that QEMU is ready
    for name in monitors:
        properties = ask("qom-list", path=f"/objects/{name}")["return"]
        assert {entry["name"] for entry in properties} - {"type"} <= MONITOR_PROPERTIES
        assert_refused(ask("object-del", id=name), "monitor-object")
        change = {"path": f"/objects/{name}", "property": "close-action", "value": "delete"}
        assert_refused(ask("qom-set", **change), "monitor-object")
        # QEMU itself finds this one ambiguous: the character device is called so too
        assert "error" in ask("qom-set", **{**change, "path": name})
        line = f"object_del {name}"
        assert "monitor-object" in ask("human-monitor-command", **{"command-line": line})["return"]
    assert ask("qom-list", path="/objects")["return"] == objects
    assert ask("object-add", **{"qom-type": "rng-builtin", "id": "r"}) == {"return": {}}
    assert ask("object-del", id="r") == {"return": {}}
