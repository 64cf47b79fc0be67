"""VFIO in the block layer: how a node is opened, how it is listed, and what must not go with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qmpguard.policy.argument_values import MAX_VALUES
from qmpguard.policy.blocks import COMMANDS, DRIVERS, listed_vfio_nodes, opened_vfio_node
from qmpguard.policy.device import Device
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.operations import OpenBlockNode, WriteHmp
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read
from qmpguard.policy.reading.result import Harmless, Reading, Unreadable
from qmpguard.wire.json import Value
from tests.support.scenes import Request, hmp, on, plug, qmp

ADDRESS = "0000:01:00.0"
NVME: dict[str, Any] = {"driver": "nvme", "device": ADDRESS, "namespace": 1}
NODE = Device("block node 'n0'", "nvme", "n0", host=ADDRESS)
FILE = {"driver": "file", "filename": "/dev/nvme0n1"}
PSEUDO = "json:" + json.dumps({"driver": "raw", "file": NVME})


def reading_of(request: Request) -> Reading | None:
    return read(request["execute"], request["arguments"], Policy())


def snapshot(**data: Any) -> dict[str, Any]:
    return {"type": "blockdev-snapshot-sync", "data": data}


OPENS: list[Request] = [
    qmp("blockdev-add", **{"node-name": "n0"}, **NVME),
    qmp("blockdev-add", driver="raw", file=NVME),
    qmp("blockdev-add", driver="qcow2", file={"driver": "throttle", "file": NVME}, backing=FILE),
    qmp("blockdev-add", driver="quorum", children=[FILE, NVME]),
    qmp("blockdev-add", **{"driver": "raw", "file.driver": "nvme"}),
    qmp("blockdev-add", driver="virtio-blk-vfio-pci", path="/sys/bus/pci/devices/0000:00:01.0"),
    qmp("blockdev-add", driver="virtio-blk-vhost-vdpa", path="/dev/vhost-vdpa-0"),
    qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "r", "file": NVME}]),
    qmp("drive-mirror", device="d", target=f"nvme://{ADDRESS}/1", sync="full"),
    qmp("drive-mirror", device="d", target=PSEUDO, sync="full"),
    qmp("drive-mirror", device="d", target="/x", format="nvme", sync="full"),
    qmp("drive-backup", device="d", target=f"nvme://{ADDRESS}/1", sync="full"),
    qmp("blockdev-change-medium", id="d", filename=PSEUDO),
    qmp("blockdev-change-medium", id="d", filename='json:{"driver":"nvm\\u0065","device":"0000:01:00.0"}'),
    qmp("blockdev-change-medium", id="d", filename="json:{'file.driver': 'nvme'}"),
    qmp("transaction", actions=[snapshot(**{"snapshot-file": "/a"}), snapshot(**{"snapshot-file": PSEUDO})]),
    hmp(f"drive_add 0 if=none,id=d,driver=nvme,device={ADDRESS},namespace=1"),
    hmp(f"drive_add 0 if=none,file.driver=nvme,file.device={ADDRESS}"),
    hmp(f"drive_add 0 if=none,file=nvme://{ADDRESS}/1"),
    hmp("drive_add 0 if=none,format=nvme,file=/x"),
    hmp('drive_add 0 "if=none,file=json:{\\"driver\\":\\"nvme\\",,\\"device\\":\\"0000:01:00.0\\"}"'),
    hmp(f"drive_mirror d nvme://{ADDRESS}/1"),
    hmp(f"drive_backup d nvme://{ADDRESS}/1"),
    hmp(f"change d nvme://{ADDRESS}/1"),
    hmp(f"snapshot_blkdev d nvme://{ADDRESS}/1 raw"),
]

HONEST: list[Request] = [
    qmp("blockdev-add", **{"node-name": "nvme"}, **FILE),
    qmp("blockdev-add", driver="nbd", server={"type": "unix", "path": "/run/nvme.sock"}),
    qmp("blockdev-add", driver="host_device", filename="/dev/disk/by-id/nvme-eui.0025388"),
    qmp("blockdev-add", driver="raw", file={"driver": "file", "filename": "/images/format=nvme.img"}),
    qmp("drive-mirror", device="d", target="json:{", sync="full"),  # QEMU cannot read it either
    qmp("drive-mirror", device="d", target='json:{"driver":"file","filename":"/x"}', sync="full"),
    qmp("block-stream", device="d"),
    qmp("block-commit", device="d"),
]


@pytest.mark.parametrize("request_", OPENS, ids=str)
def test_whatever_opens_such_a_node_is_judged_as_a_device_more(request_: Request) -> None:
    operation = reading_of(request_)
    assert isinstance(operation, OpenBlockNode)
    for capability, rule in (("postcopy-ram", "vfio-postcopy"), ("background-snapshot", "vfio-background-snapshot")):
        refusal = judge(operation, Machine.of(capabilities=[capability]), Policy()).refusal
        assert refusal is not None
        assert refusal.rule == rule
    assert judge(operation, Machine.of(), Policy()).findings == ()


@pytest.mark.parametrize("request_", HONEST, ids=str)
def test_other_nodes_concern_nobody(request_: Request) -> None:
    assert not isinstance(reading_of(request_), OpenBlockNode)


def test_a_line_of_hmp_that_opens_another_node_is_a_line_like_any_other() -> None:
    for line in ("drive_add 0 if=none,file=/dev/nvme0n1,format=raw,id=nvme", "change d /nvme", "commit all"):
        assert isinstance(reading_of(hmp(line)), WriteHmp)
    hidden = 'drive_add 0 "if=none,file=json:{\\"driver\\":\\"nvm\\\\u0065\\"}"'
    assert isinstance(reading_of(hmp(hidden)), Unreadable)


@pytest.mark.parametrize("driver", sorted(DRIVERS))
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_looked_through_for_every_driver(command: str, driver: str) -> None:
    assert isinstance(read(command, {"a": [{"b": {"driver": driver}}]}, Policy()), OpenBlockNode)


def test_a_request_of_too_many_values_is_not_looked_through() -> None:
    actions = [snapshot(**{"snapshot-file": "/a"})] * (MAX_VALUES // 2)
    assert isinstance(reading_of(qmp("transaction", actions=actions)), Unreadable)


def test_depth_and_odd_texts_make_no_difference() -> None:
    value: Value = dict(NVME)
    for _ in range(1000):
        value = [value]
    assert opened_vfio_node(value) is not None
    assert opened_vfio_node({"filename": "json:" + "[" * 5000}) is None
    assert opened_vfio_node({"filename": "json:\udc80"}) is None


def test_a_node_is_named_by_its_name_and_address() -> None:
    operation = reading_of(OPENS[0])
    assert operation == OpenBlockNode(NODE)
    refusal = judge(OpenBlockNode(NODE), Machine.of(capabilities=["postcopy-ram"]), Policy()).refusal
    assert refusal is not None
    assert refusal.text().startswith(
        f"{ADDRESS}: VFIO migration is not supported with postcopy migration (qmpguard: rule vfio-postcopy, device 'n0'"
    )


LISTED: list[Any] = [
    {"drv": "raw", "node-name": "disk0", "file": f"nvme://{ADDRESS}/1"},
    {"drv": "nvme", "node-name": "n0", "file": f"nvme://{ADDRESS}/1"},
    {"drv": "file", "node-name": "f", "file": "/nvme"},
    {"drv": "virtio-blk-vhost-vdpa", "file": "/dev/vhost-vdpa-0"},
]


def test_the_nodes_that_qemu_lists_are_found() -> None:
    assert listed_vfio_nodes(LISTED) == (
        Device("a block node of driver virtio-blk-vhost-vdpa", "virtio-blk-vhost-vdpa"),
        NODE,
    )
    odds: list[Any] = [{}, [5], [{"drv": "nvme"}]]
    for odd in odds:
        with pytest.raises(ValueError, match="block node"):
            listed_vfio_nodes(odd)


@pytest.mark.parametrize(
    ("request_", "lit", "refused"),
    [
        (on("postcopy-ram"), "", "vfio-postcopy"),
        (on("background-snapshot"), "", "vfio-background-snapshot"),
        (hmp("migrate_set_capability postcopy-ram on"), "", "vfio-postcopy"),
        (qmp("migrate", uri="tcp:h:1"), "postcopy-ram", "vfio-postcopy"),
        (qmp("migrate", uri="tcp:h:1"), "background-snapshot", "vfio-background-snapshot"),
        (qmp("migrate-incoming", uri="tcp:h:1"), "postcopy-ram", "vfio-postcopy"),
        (qmp("migrate", uri="tcp:h:1"), "", None),
        (plug("e1000e"), "postcopy-ram", None),
    ],
    ids=str,
)
def test_a_node_that_is_there_is_a_vfio_device(request_: Request, lit: str, refused: str | None) -> None:
    operation = reading_of(request_)
    if isinstance(operation, Harmless):
        assert refused is None
        return
    assert operation is not None
    assert not isinstance(operation, Unreadable)
    refusal = judge(operation, Machine.of(capabilities=[lit] if lit else [], blocks=[NODE]), Policy()).refusal
    assert (refusal and refusal.rule) == refused
    assert refusal is None or refusal.problem.devices == ("n0",)


def test_devices_and_nodes_are_named_together_and_qemu_checks_only_devices() -> None:
    gpu = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0")
    operation = reading_of(qmp("migrate", uri="tcp:h:1"))
    assert not isinstance(operation, Harmless | Unreadable | None)
    both = judge(operation, Machine.of(capabilities=["postcopy-ram"], devices=[gpu], blocks=[NODE]), Policy())
    assert both.refusal is not None
    assert both.refusal.problem.devices == ("gpu0", "n0")
    assert both.qemu_check.refuses.value == "yes"
    alone = judge(operation, Machine.of(capabilities=["postcopy-ram"], blocks=[NODE]), Policy())
    assert str(alone.qemu_check) == "no (its check does not see such a device)"


def test_a_leftover_capability_excuses_a_node_as_it_does_a_device() -> None:
    left = Machine.of(capabilities=["postcopy-ram"], left_on=["postcopy-ram"], migration="completed")
    verdict = judge(OpenBlockNode(NODE), left, Policy())
    assert verdict.refusal is None
    assert [finding.rule for finding in verdict.warnings] == ["vfio-postcopy"]


def test_the_node_that_is_opened_is_named_with_its_address_where_it_has_one() -> None:
    assert opened_vfio_node({**NVME, "node-name": "n0"}) == NODE
    unnamed = opened_vfio_node({"driver": "nvme", "device": 5})
    assert unnamed is not None
    assert (unnamed.id, unnamed.host) == (None, None)
    named = opened_vfio_node({"node-name": "n1", "file": f"nvme://{ADDRESS}/1"})
    assert named is not None
    assert named.id == "n1"
