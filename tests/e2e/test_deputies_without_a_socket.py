"""QEMU as a deputy where its monitor has no socket to connect to: `exec`, and a QEMU that connects to its guard."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import FdAddress, Inbound, UnixAddress
from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from tests.support.deputy import POSTCOPY, at, attack, deputy, listening_sockets, ways
from tests.support.guarding import TIMEOUT, Client, assert_refused, connected, eventually, guarding
from tests.support.process import guard_process

if TYPE_CHECKING:
    from collections.abc import Callable

QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]
MACHINE = ("-nodefaults", "-display", "none", "-accel", "tcg", "-M", "pc", "-device", "virtio-rng-pci")
#: counts as a VFIO device in these tests, so that what the attack asks for is refused where it is judged
COUNTED = "virtio-rng-pci"


def dialling(where: Path, binary: Path) -> list[str]:
    """QEMU's options for a monitor that connects to its guard; the option for reconnecting changed in 9.2."""
    again = "reconnect=1" if binary == system_qemu() else "reconnect-ms=1000"
    return ["-chardev", f"socket,id=dials,server=off,{again},path={where}", "-mon", "chardev=dials,mode=control"]


async def is_off(qmp: Client) -> bool:
    states = (await qmp.ask("query-migrate-capabilities"))["return"]
    return not next(one["state"] for one in states if one["capability"] == "postcopy-ram")


@pytest.mark.parametrize("binary", QEMUS)
async def test_a_qemu_of_exec_reaches_its_monitor_only_as_a_client_of_the_guard(
    tmp_path: Path, binary: Callable[[], Path]
) -> None:
    """It has no socket at which it listens. As a client of its own guard it is judged like any other."""
    listen = tmp_path / "guard.sock"
    options = ("--listen", str(listen), "--extra-types", COUNTED, "--", str(binary()), *MACHINE)
    async with guard_process(tmp_path, "exec", *options) as guard:
        await guard.says(" ready: ")
        (qemu,) = Path(f"/proc/{guard.process.pid}/task/{guard.process.pid}/children").read_text().split()
        assert listening_sockets(int(qemu)) == []
        async with connected(listen) as qmp:
            assert_refused(await qmp.ask(*POSTCOPY), "vfio-postcopy")
            port = await deputy(qmp, at(listen))
            await guard.says(f"pid{qemu}/")
            async with asyncio.timeout(TIMEOUT):
                while guard.text.count("verdict=refused rule=vfio-postcopy") < 2:
                    attack(port)
                    await asyncio.sleep(0.05)
            assert await is_off(qmp)


@pytest.mark.parametrize("binary", QEMUS)
async def test_a_qemu_of_exec_does_not_use_its_end_of_the_pair_by_its_number(
    tmp_path: Path, binary: Callable[[], Path]
) -> None:
    listen = tmp_path / "guard.sock"
    options = ("--listen", str(listen), "--profile", "strict", "--", str(binary()), *MACHINE)
    async with guard_process(tmp_path, "exec", *options) as guard:
        await guard.says(" ready: ")
        (qemu,) = Path(f"/proc/{guard.process.pid}/task/{guard.process.pid}/children").read_text().split()
        sockets = [int(fd.name) for fd in Path(f"/proc/{qemu}/fd").iterdir() if "socket:" in str(fd.readlink())]
        assert sockets
        async with connected(listen) as qmp:
            for number in sockets:
                stream = {"type": "stream", "id": "n", "server": False, "addr": {"type": "fd", "str": str(number)}}
                assert_refused(await qmp.ask("netdev_add", stream), "own-socket")
            for command, arguments in ways(str(listen)):
                assert_refused(await qmp.ask(command, arguments), "own-socket")


@pytest.mark.parametrize("binary", QEMUS)
async def test_a_qemu_that_connects_to_its_guard_is_not_its_second_qemu(
    tmp_path: Path, binary: Callable[[], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """In profile standard: it is turned away while it is connected, and does not wait until a client has cut it."""
    where = tmp_path / "in.sock"
    policy = Policy(extra_types=frozenset({COUNTED}))
    async with (
        guarding(Inbound(UnixAddress(str(where))), tmp_path / "guard.sock", policy=policy, up=False) as guard,
        Qemu(binary(), tmp_path, [*dialling(where, binary()), "-device", COUNTED], monitors=1, machine="pc") as qemu,
        connected(qemu.monitors[0]) as watcher,
    ):
        assert any(str(qemu.monitors[0]) in one for one in listening_sockets(qemu.process.pid)), "the test can see one"
        async with connected(tmp_path / "guard.sock") as qmp:
            attack(await deputy(qmp, at(where)))
            await eventually(lambda: "refused: a QEMU is connected here already" in caplog.text)
            assert f"pid{qemu.process.pid}/" in caplog.text
            assert await qmp.ask("query-name") == {"return": {}}
            qmp.send({"execute": "yank", "arguments": {"instances": [{"type": "chardev", "id": "dials"}]}})
            assert await qmp.closed()
        async with connected(tmp_path / "guard.sock") as qmp:
            assert_refused(await qmp.ask(*POSTCOPY), "vfio-postcopy")
            assert guard.vm.process is not None
            assert guard.vm.process.pid == qemu.process.pid
            assert guard.vm.counts.links == 2
        assert await is_off(watcher)


@pytest.mark.parametrize("passed", [False, True], ids=["by path", "passed"])
async def test_in_strict_a_qemu_is_not_made_to_connect_to_its_guard(tmp_path: Path, *, passed: bool) -> None:
    """The guard knows the name of a socket that was passed too."""
    where, listen = tmp_path / "in.sock", tmp_path / "guard.sock"
    strict = Policy(profile=Profile.STRICT)
    with socket.socket(socket.AF_UNIX) as held:
        if passed:
            held.bind(str(where))
            held.listen()
        inbound = Inbound(FdAddress(held.fileno()) if passed else UnixAddress(str(where)))
        async with (
            guarding(inbound, listen, policy=strict, up=False) as guard,
            Qemu(system_qemu(), tmp_path, dialling(where, system_qemu()), monitors=0, machine="pc"),
            connected(listen) as qmp,
        ):
            for path in (where, listen, Path(f"/proc/self/root{where}")):
                for command, arguments in ways(str(path)):
                    assert_refused(await qmp.ask(command, arguments), "own-socket")
            assert guard.vm.counts.links == 1
