"""Readers: what each intercepted request is taken for."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.machine import Change
from qmpguard.policy.migration import Start
from qmpguard.policy.operations import (
    ChangeMonitor,
    OpenMonitor,
    RunProgram,
    SetCapabilities,
    SetProperty,
    StartMigration,
    TurnAgainstMonitor,
    UseAddress,
    WriteHmp,
)
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import READERS, Harmless, Unreadable, read, unread
from qmpguard.policy.reading.result import Reading
from qmpguard.policy.schema import Schema
from qmpguard.wire.json import Number
from tests.support.scenes import Request, caps, channel, hmp, plug, qmp

POSTCOPY = SetCapabilities((("postcopy-ram", True),))
TO_DISK = {"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]}
CLOSE_ACTION = ChangeMonitor("m", "qom-set of 'close-action' of 'm'")
MANY: list[Any] = [[]] * 20000  # more values than are looked through
SNAPSHOT = SetCapabilities((("background-snapshot", True),))


def taken_for(request: Request) -> Reading | None:
    return read(request["execute"], request.get("arguments", {}), Policy())


@pytest.mark.parametrize(
    ("request_", "reading"),
    [
        (qmp("migrate-set-parameters", **{"downtime-limit": 5}), Harmless()),
        (qmp("migrate-set-parameters", **{"postcopy-ram": False, "background-snapshot": True}), None),
        (qmp("migrate-set-parameters", **{"postcopy-ram": False}), Harmless()),
        (qmp("migrate-set-parameters", **{"cpr-exec-command": ["q"]}), RunProgram("cpr-exec-command")),
        (
            qmp("migrate-set-parameters", **{"postcopy-ram": True, "cpr-exec-command": ["q"]}),
            SetCapabilities((("postcopy-ram", True),), "cpr-exec-command"),
        ),
        (qmp("migrate", uri="tcp:h:1", resume=True), Harmless()),
        (qmp("migrate", uri="exec:x", resume=True), RunProgram("uri 'exec:x'")),
        (qmp("migrate-recover", uri="tcp:h:1", new=1), Harmless()),
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
        (qmp("migrate", uri="exec:cat"), StartMigration(Start.OUTGOING, "uri 'exec:cat'")),
        (qmp("migrate", channels=channel(transport="rdma")), StartMigration(Start.OUTGOING)),
        (qmp("migrate", channels=[5, {"addr": 5}]), StartMigration(Start.OUTGOING)),
        (qmp("migrate-incoming", uri="tcp:h:1"), StartMigration(Start.INCOMING)),
        (qmp("migrate-start-postcopy"), StartMigration(Start.POSTCOPY)),
        (plug("e1000e"), Harmless()),
        (qmp("object-add", **{"qom-type": "memory-backend-ram"}), UseAddress(("memory-backend-ram",))),
        (qmp("object-add", **{"qom-type": "qtest"}), TurnAgainstMonitor("object-add of 'qtest'")),
        (qmp("object-del", id="m"), ChangeMonitor("/objects/m", "object-del of 'm'")),
        (qmp("qom-set", path="m", property="close-action", value="delete"), CLOSE_ACTION),
        (hmp("object_del m"), ChangeMonitor("/objects/m", "object-del of 'm'")),
        (hmp("qom-set m close-action delete"), CLOSE_ACTION),
        (qmp("yank", instances=[{"type": "chardev", "id": "c"}]), TurnAgainstMonitor("yank of a character device")),
        (qmp("yank", instances=[5, {"type": "migration"}]), Harmless()),
        (qmp("yank", instances=[{"type": "migration"}] * 1025), TurnAgainstMonitor("yank of a character device")),
        (qmp("chardev-add", id="c", backend={"type": "null", "data": {}}), UseAddress(("c", "null"))),
        (qmp("nbd-server-start", addr={"type": "inet", "data": {"port": 5}}), UseAddress(("inet", ":5"))),
        (qmp("chardev-add"), Harmless()),
        (qmp("object-add", **{"qom-type": "monitor-qmp"}), OpenMonitor("object-add of 'monitor-qmp'")),
        (qmp("add_client", protocol="vnc", fdname="f"), Harmless()),
        (qmp("add_client", protocol="spice", fdname="f"), Harmless()),
        (qmp("add_client", protocol="@dbus-display", fdname="f"), Harmless()),
        (qmp("qom-set", path="/a", property="x-postcopy-ram", value=False), Harmless()),
        (qmp("qom-set", path="/a", property="x-postcopy-ram", value=True), POSTCOPY),
        (qmp("qom-set", path="/a", property="x-postcopy-ram", value=0), POSTCOPY),
        (qmp("qom-set", path="/a", property="realized", value=1), SetProperty(Change("/a", "realized"))),
        (qmp("qom-set", path="/a", property="guest-stats-polling-interval", value=1), Harmless()),
        # the same by HMP
        (hmp("migrate tcp:h:1"), StartMigration(Start.OUTGOING, to_another_host=True)),
        (qmp("migrate", uri="tcp:[::1]:1"), StartMigration(Start.OUTGOING)),
        (qmp("migrate", uri="rdma:h:1"), StartMigration(Start.OUTGOING, to_another_host=True)),
        (qmp("migrate", channels=channel(transport="socket", host="h")), StartMigration(Start.OUTGOING, None, True)),
        (qmp("migrate", channels=channel(transport="socket", host="::1")), StartMigration(Start.OUTGOING)),
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
        (qmp("snapshot-save", **TO_DISK), StartMigration(Start.SAVE)),
        (qmp("snapshot-load", **TO_DISK), StartMigration(Start.LOAD)),
        (hmp("info status"), Harmless()),
        (hmp("migrate_set_parameter background-snapshot no"), Harmless()),
        (hmp("migrate_recover tcp:h:1"), Harmless()),
        (hmp("migrate_recover exec:cat"), RunProgram("uri 'exec:cat'")),
        (hmp("qom-set migration x-postcopy-ram off"), Harmless()),
        (hmp("stop"), WriteHmp("stop")),
        (hmp("migrate"), Harmless()),  # QEMU rejects it before it does anything
        (hmp(""), Harmless()),
    ],
    ids=str,
)
def test_what_a_request_is_taken_for(request_: Request, reading: Reading | None) -> None:
    found = taken_for(request_)
    if reading is None:
        assert isinstance(found, SetCapabilities)
    else:
        assert found == reading


@pytest.mark.parametrize(
    "request_",
    [
        qmp("migrate-set-capabilities"),
        caps(*(("xbzrle", False),) * 1025),
        qmp("migrate-set-parameters", **{f"p{i}": 1 for i in range(1025)}),
        qmp("migrate-set-parameters", **{"postcopy-ram": 1}),
        qmp("migrate", uri="tcp:h:1", resume=1),
        qmp("migrate-start-postcopy", x=1),
        qmp("device_add", id="x"),
        qmp("object-add"),
        qmp("netdev_add", type="user", id="n", guestfwd=[{"str": "tcp:1.2.3.4:5-tcp:6.7.8.9:1"}] * 1025),
        qmp("object-del"),
        qmp("migrate", uri="tcp:h:1", channels=MANY),
        qmp("migrate-incoming", channels=MANY),
        qmp("chardev-add", id="c", backend=MANY),
        qmp("add_client"),
        qmp("add_client", protocol="vnc", fdname="f", more=1),
        qmp("qom-set", path=1, property="x"),
        qmp("qom-set", path="x", property=None),
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
    assert unread(schema) == [("migrate", "config")]


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
