"""What QEMU opens a monitor for, tried on real QEMUs: exactly that is refused as `new-monitor`.

Each request names a character device as `mon:unix:WAY`, at every place of the schemas where a character device can
be described or named. Behind each one that QEMU takes it is looked for a monitor: Ctrl-a c changes to it.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.policy.operations import OpenMonitor
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read
from tests.support.guarding import TIMEOUT, Client, connected
from tests.support.scenes import Request, hmp, qmp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]
MON = "mon:unix:$WAY,server=on,wait=off"
MUX = "unix:$WAY,server=on,wait=off,mux=on"
FORWARD = f"tcp:10.0.2.100:80-{MON}"
SOCKET = {"addr": {"type": "unix", "data": {"path": "$WAY"}}, "server": True, "wait": False}

#: (request, whether QEMU opens a monitor for it)
WAYS: list[tuple[Request, bool]] = [
    (qmp("netdev_add", type="user", id="n", guestfwd=[{"str": FORWARD}]), True),
    (qmp("netdev_add", type="user", id="n", guestfwd=[{"str": f":10.0.2.101:1-{MON}"}]), True),
    (qmp("netdev_add", type="user", id="n", guestfwd=[{"str": f"tcp::1-{MON}"}]), True),
    (qmp("netdev_add", type="user", id="n", guestfwd=[{"str": FORWARD.replace("mon:", "", 1)}]), False),
    (qmp("netdev_add", type="user", id="n", guestfwd=[{"str": f"tcp:10.0.2.9:1-{MUX}"}]), True),
    (qmp("netdev_add", type="user", id="n", guestfwd=[{"str": FORWARD.replace("mon:", "", 1) + ",mux"}]), True),
    (qmp("netdev_add", type="vhost-user", id="n", chardev=MON), False),
    (qmp("chardev-add", id="c", backend={"type": "socket", "data": SOCKET}), False),
    (qmp("chardev-add", id=MON, backend={"type": "socket", "data": SOCKET}), False),
    (qmp("chardev-add", id="c", backend={"type": "mux", "data": {"chardev": MON}}), False),
    (qmp("chardev-change", id="c", backend={"type": "socket", "data": SOCKET}), False),
    (qmp("device_add", driver="isa-serial", id="d", chardev=MON), False),
    (qmp("device_add", driver="pci-serial", id="d", chardev=MON), False),
    (qmp("object-add", **{"qom-type": "rng-egd", "id": "r", "chardev": MON}), False),
    (qmp("object-add", **{"qom-type": "filter-redirector", "id": "r", "netdev": "n", "indev": MON}), False),
    (qmp("object-add", **{"qom-type": "colo-compare", "id": "r", "primary_in": MON}), False),
    (hmp("gdbserver " + MON), True),
    (hmp("netdev_add user,id=n,guestfwd=" + FORWARD.replace(",", ",,")), True),
    (hmp('netdev_add "type=user,guestfwd=' + FORWARD.replace(",", ",,") + ',id=n"'), True),
    (hmp("netdev_add user,id=n,net=10.0.2.0/24,hostfwd=tcp::0-:22"), False),
    (hmp("netdev_add user,id=n,guestfwd=tcp:10.0.2.9:1-" + MUX.replace(",", ",,")), True),
    (hmp("chardev-add socket,id=c,path=$WAY,server=on,wait=off"), False),
    (hmp("chardev-add socket,id=c,path=$WAY,server=on,wait=off,mux=on"), False),
    (hmp("chardev-add " + MON), False),
    (hmp("chardev-change c " + MON), False),
    (hmp("device_add pci-serial,chardev=" + MON.replace(",", ",,")), False),
    (hmp("object_add rng-egd,id=r,chardev=" + MON.replace(",", ",,")), False),
    (hmp("hostfwd_add tcp::0-" + MON), False),
]


async def opens_monitor(qmp_client: Client, request: Request, way: Path) -> bool:
    """Whether a monitor answers at a path once QEMU has had a request, all the others being elsewhere."""
    await qmp_client.ask(request["execute"], json.loads(json.dumps(request["arguments"]).replace("$WAY", str(way))))
    try:
        reader, writer = await asyncio.open_unix_connection(way)
    except OSError:
        return False
    try:
        writer.write(b"\x01c\r\ninfo name\r\n")
        # whatever is no monitor says nothing: QEMU answers a later command of ours when it has looked at this one
        for _ in range(3):
            await qmp_client.ask("query-status")
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENCE):
                    if b"(qemu)" in await reader.read(4096):
                        return True
        return False
    finally:
        writer.close()


#: seconds in which a monitor says something to who has changed to it: it takes a few turns of QEMU's main loop
SILENCE = 0.3


@pytest.mark.parametrize("binary", QEMUS)
async def test_exactly_what_qemu_opens_a_monitor_for_is_refused(tmp_path: Path, binary: Callable[[], Path]) -> None:
    seen: dict[str, bool] = {}
    for i, (request, _) in enumerate(WAYS):
        folder = tmp_path / str(i)
        folder.mkdir()
        qemu = Qemu(binary(), folder, machine="pc")
        async with asyncio.timeout(TIMEOUT), qemu, connected(qemu.monitors[0]) as client:
            seen[str(request)] = await opens_monitor(client, request, folder / "w")
    assert seen == {str(request): opened for request, opened in WAYS}


@pytest.mark.parametrize(("request_", "opens"), WAYS, ids=str)
def test_what_opens_a_monitor_is_refused_in_both_profiles(request_: Request, opens: bool) -> None:
    reading: Any = read(request_["execute"], request_["arguments"], Policy())
    assert isinstance(reading, OpenMonitor) == opens
