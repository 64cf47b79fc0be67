"""Readers: what each intercepted request is taken for."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.machine import Change
from qmpguard.policy.migration import Start
from qmpguard.policy.netdevs import netdev
from qmpguard.policy.operations import (
    AddNetdev,
    ChangeMonitor,
    OpenMonitor,
    RemoveNetdev,
    RunProgram,
    SetCapabilities,
    SetProperty,
    StartMigration,
    UseAddress,
    UseDescriptor,
    WriteHmp,
)
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import READERS, read, unknown_arguments
from qmpguard.policy.reading.result import Harmless, Reading, Unreadable
from qmpguard.policy.schema import Schema
from qmpguard.wire.json import Number
from tests.support.scenes import Request, hmp, qmp

POSTCOPY = SetCapabilities((("postcopy-ram", True),))
CLOSE_ACTION = ChangeMonitor("m", "qom-set of 'close-action' of 'm'")
SNAPSHOT = SetCapabilities((("background-snapshot", True),))


def taken_for(request: Request) -> Reading | None:
    return read(request["execute"], request.get("arguments", {}), Policy())


@pytest.mark.parametrize(
    ("request_", "reading"),
    [
        (hmp("object_del m"), ChangeMonitor("/objects/m", "object-del of 'm'")),
        (hmp("qom-set m close-action delete"), CLOSE_ACTION),
        (hmp("migrate tcp:h:1"), StartMigration(Start.OUTGOING, to_another_host=True)),
        (hmp("migrate -r tcp:h:1"), Harmless()),
        (hmp("migrate_incoming exec:cat"), StartMigration(Start.INCOMING, "uri 'exec:cat'")),
        (hmp("migrate_start_postcopy"), StartMigration(Start.POSTCOPY)),
        (hmp("migrate_set_capability postcopy-ram on"), POSTCOPY),
        (hmp("migrate_set_capability postcopy-ram off"), Harmless()),
        (hmp("migrate_set_capability xbzrle on"), Harmless()),
        (hmp("migrate_set_parameter downtime-limit 5"), Harmless()),
        (hmp("migrate_set_parameter background-snapshot on"), SNAPSHOT),
        (hmp("migrate_set_parameter background-snapshot off"), Harmless()),
        (hmp("device_add e1000e"), Harmless()),
        (hmp("device_del gpu0"), Harmless()),
        (hmp("object_add memory-backend-ram,id=m,size=1M"), UseAddress(("memory-backend-ram", "m", "1M"))),
        (hmp("object_add monitor-hmp,id=m"), OpenMonitor("object-add of 'monitor-hmp'")),
        (hmp("qom-set /a realized off"), SetProperty(Change("/a", "realized"))),
        (hmp("gdbserver"), OpenMonitor("gdbserver")),
        (hmp("gdbserver none"), WriteHmp("gdbserver")),
        (hmp("savevm now"), StartMigration(Start.SAVE)),
        (hmp("savevm"), StartMigration(Start.SAVE)),
        (hmp("loadvm now"), StartMigration(Start.LOAD)),
        (hmp("info status"), Harmless()),
        (hmp("migrate_set_parameter background-snapshot no"), Harmless()),
        (hmp("migrate_recover tcp:h:1"), Harmless()),
        (hmp("migrate_recover exec:cat"), RunProgram("uri 'exec:cat'")),
        (hmp("qom-set migration x-postcopy-ram off"), Harmless()),
        (hmp("stop"), WriteHmp("stop")),
        (hmp("netdev_add vhost-vdpa,id=n"), AddNetdev(netdev("vhost-vdpa", "n"), line="netdev_add")),
        (hmp("netdev_add vhost-vdpa,id=n,id=m"), AddNetdev(netdev("vhost-vdpa", "n"), line="netdev_add")),
        (hmp("netdev_add tap,id=n"), WriteHmp("netdev_add")),
        (hmp("netdev_add tap,id=n,fd=4"), UseDescriptor("fd", line="netdev_add")),
        (hmp("qom-set i fd on"), UseDescriptor("fd")),
        (hmp("netdev_del n"), RemoveNetdev("n", "netdev_del")),
        (hmp("migrate"), Harmless()),  # QEMU rejects it before it does anything
        (hmp(""), Harmless()),
    ],
    ids=str,
)
def test_what_a_line_of_hmp_is_taken_for(request_: Request, reading: Reading) -> None:
    assert taken_for(request_) == reading


@pytest.mark.parametrize(
    "request_",
    [
        qmp("migrate-set-parameters", **{f"p{i}": 1 for i in range(1025)}),
        qmp("migrate-start-postcopy", x=1),
        qmp("add_client", protocol="vnc", fdname="f", more=1),
        qmp("human-monitor-command"),
        qmp("human-monitor-command", **{"command-line": "stop", "cpu": 0}),
        hmp("stop\0"),
        hmp("device_add vfio-pci,x=\udc80"),
        hmp("object_add {}"),
    ],
    ids=str,
)
def test_what_cannot_be_read_says_why(request_: Request) -> None:
    reading = taken_for(request_)
    assert isinstance(reading, Unreadable)
    assert reading.reason


def test_an_argument_that_no_reader_knows_is_found_in_the_schema() -> None:
    schema = Schema({"migrate": frozenset({"uri", "config"}), "device_add": frozenset({"driver", "new"})})
    assert unknown_arguments(schema) == [("migrate", "config")]


def deep() -> Any:
    """As deep as QEMU and the guard read JSON; Python itself goes no deeper than a thousand."""
    value: Any = []
    for _ in range(1000):
        value = [value]
    return value


def test_no_argument_however_odd_makes_a_reader_raise() -> None:
    names = {"type", "id", "driver", "qom-type", "guestfwd", "script", "failover_pair_id", "enable-migration"}
    for command, reader in READERS.items():
        for name in reader.known or names:
            for value in (deep(), [deep()], {"str": deep()}, Number("1e400"), "\ud800", [], {}, None, 5, True):
                assert read(command, {name: value, "driver": "vfio-pci"}, Policy())
                assert read(command, {name: value}, Policy())


@pytest.mark.parametrize(
    ("count", "said"), [(1024, "does not know the argument"), (1025, "has more than 1024 arguments")]
)
def test_so_many_arguments_are_looked_at_and_no_more(count: int, said: str) -> None:
    reading = taken_for(qmp("migrate-set-parameters", **{f"p{i}": 1 for i in range(count)}))
    assert isinstance(reading, Unreadable)
    assert said in reading.reason
