"""Readers of what adds devices, network back ends, block nodes and sockets."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.combination import Capability, Combination, Moment
from qmpguard.policy.device import Device
from qmpguard.policy.netdevs import netdev
from qmpguard.policy.operations import (
    AddDevice,
    AddNetdev,
    OpenBlockNode,
    OpenMonitor,
    RemoveNetdev,
    RunProgram,
    UseAddress,
    UseDescriptor,
    WriteHmp,
)
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import READERS
from qmpguard.policy.reading.devices import read_block_command, read_block_line, read_device_add
from qmpguard.policy.reading.result import Arguments, Harmless, Unreadable
from tests.support.scenes import Request, plug, qmp

MONITOR = OpenMonitor("netdev_add with 'guestfwd' to a monitor")
BY_NUMBER = AddNetdev(netdev("vhost-vdpa", "n"), numbered="vhostfd")
MANY: list[Any] = [[]] * 20000  # more values than are looked through


def taken_for(request: Request) -> object:
    return READERS[request["execute"]].read(request.get("arguments", {}), Policy())


@pytest.mark.parametrize(
    ("request_", "reading"),
    [
        (qmp("netdev_add", type="tap", id="n", script="no", downscript=""), UseAddress(("tap", "n", "no", ""))),
        (qmp("netdev_add", type="tap", id="n", script="/x"), RunProgram("netdev_add with 'script'")),
        (
            qmp("netdev_add", type="user", id="n", guestfwd=[{"str": "tcp:1.2.3.4:5-tcp:6.7.8.9:1"}, 5]),
            UseAddress(("user", "n", "tcp:1.2.3.4:5-tcp:6.7.8.9:1")),
        ),
        (
            qmp("netdev_add", type="user", id="n", guestfwd=[{"str": "tcp:1.2.3.4:5-cmd:sh"}]),
            RunProgram("netdev_add with 'guestfwd' to a command"),
        ),
        (qmp("netdev_add", type="vhost-vdpa", id="n", vhostdev="/d"), AddNetdev(netdev("vhost-vdpa", "n"))),
        (qmp("netdev_add", type="vhost-user", id="n", chardev="c"), AddNetdev(netdev("vhost-user", "n"))),
        (
            qmp("netdev_add", type="passt", id="n", path="/x", **{"vhost-user": True}),
            AddNetdev(netdev("vhost-user", "n"), program="netdev_add with 'path'"),
        ),
        (qmp("netdev_add", type="tap", id="n", fd="4"), UseDescriptor("fd")),
        (
            qmp("netdev_add", type="tap", id="n", script="/x", vhostfd="4"),
            UseDescriptor("vhostfd", "netdev_add with 'script'"),
        ),
        (qmp("netdev_add", type="vhost-vdpa", id="n", vhostfd="4"), BY_NUMBER),
        (qmp("netdev_del", id="n"), RemoveNetdev("n")),
        (qmp("netdev_del", id=5), Harmless()),  # QEMU refuses it
        (plug("e1000e"), Harmless()),
        (qmp("chardev-add", id="c", backend={"type": "null", "data": {}}), UseAddress(("c", "null"))),
        (qmp("nbd-server-start", addr={"type": "inet", "data": {"port": 5}}), UseAddress(("inet", ":5"))),
        (qmp("chardev-add"), Harmless()),
        (qmp("blockdev-add", driver="null-co", **{"node-name": "n"}), UseAddress(("null-co", "n"))),
        (qmp("netdev_add", type="user", id="n", guestfwd=[{"str": "tcp:1.2.3.4:5-mon:stdio"}]), MONITOR),
    ],
    ids=str,
)
def test_what_a_request_is_taken_for(request_: Request, reading: object) -> None:
    assert taken_for(request_) == reading


@pytest.mark.parametrize(
    "request_",
    [
        qmp("device_add", id="x"),
        qmp("device_add", driver="vfio-user-pci", socket=MANY),
        qmp("netdev_add", type="user", id="n", guestfwd=[{"str": "tcp:1.2.3.4:5-tcp:6.7.8.9:1"}] * 1025),
        qmp("netdev_add", type="vhost-vdpa", id="n", more=MANY),
        qmp("chardev-add", id="c", backend=MANY),
        qmp("blockdev-add", driver="null-co", more=MANY),
    ],
    ids=lambda request: str(request)[:80],
)
def test_what_cannot_be_read_says_why(request_: Request) -> None:
    reading = taken_for(request_)
    assert isinstance(reading, Unreadable)
    assert reading.reason


def test_a_vfio_device_is_one_more_and_so_is_what_a_combination_names() -> None:
    row = Combination("own", ("virtio-net*",), Capability("multifd"), frozenset({Moment.PLUG}), "no")
    nic = Device("/machine/peripheral/n", "virtio-net-pci", "n")
    arguments: Arguments = {"driver": "virtio-net-pci", "id": "n"}
    assert read_device_add(arguments, Policy()) == Harmless()
    assert read_device_add(arguments, Policy(combinations=(row,))) == AddDevice(nic, is_vfio=False)
    assert read_device_add(arguments, Policy(extra_types=frozenset({"virtio-net-pci"}))) == AddDevice(nic)


def test_a_block_node_may_be_a_vfio_device_whoever_opens_it() -> None:
    node = read_block_command({"driver": "nvme", "device": "0000:65:00.0", "node-name": "n"}, Policy())
    assert isinstance(node, OpenBlockNode)
    assert node.node.driver == "nvme"
    assert isinstance(read_block_line("drive_add", "drive_add 0 driver=nvme,device=0000:65:00.0"), OpenBlockNode)
    assert read_block_line("drive_add", "drive_add 0 driver=null-co") == WriteHmp("drive_add")
