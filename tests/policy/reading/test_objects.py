"""Readers of what makes, changes or removes objects: any of them may be a monitor."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.device import VFIO_PROPERTIES
from qmpguard.policy.machine import Change
from qmpguard.policy.operations import (
    ChangeMonitor,
    OpenMonitor,
    SetCapabilities,
    SetProperty,
    TurnAgainstMonitor,
    UseAddress,
    UseDescriptor,
)
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import READERS
from qmpguard.policy.reading.objects import MONITOR_PROPERTIES
from qmpguard.policy.reading.result import Harmless, Unreadable
from tests.support.scenes import Request, qmp

POSTCOPY = SetCapabilities((("postcopy-ram", True),))
CLOSE_ACTION = ChangeMonitor("m", "qom-set of 'close-action' of 'm'")
MANY: list[Any] = [[]] * 20000  # more values than are looked through


def taken_for(request: Request) -> object:
    return READERS[request["execute"]].read(request.get("arguments", {}), Policy())


@pytest.mark.parametrize(
    ("request_", "reading"),
    [
        (qmp("object-add", **{"qom-type": "memory-backend-ram"}), UseAddress(("memory-backend-ram",))),
        (qmp("object-add", **{"qom-type": "qtest"}), TurnAgainstMonitor("object-add of 'qtest'")),
        (qmp("object-del", id="m"), ChangeMonitor("/objects/m", "object-del of 'm'")),
        (qmp("qom-set", path="m", property="close-action", value="delete"), CLOSE_ACTION),
        (qmp("yank", instances=[{"type": "chardev", "id": "c"}]), TurnAgainstMonitor("yank of a character device")),
        (qmp("yank", instances=[5, {"type": "migration"}]), Harmless()),
        (qmp("yank", instances=[{"type": "migration"}] * 1024), Harmless()),
        (qmp("yank", instances=[{"type": "migration"}] * 1025), TurnAgainstMonitor("yank of a character device")),
        (qmp("object-add", **{"qom-type": "monitor-qmp"}), OpenMonitor("object-add of 'monitor-qmp'")),
        (qmp("add_client", protocol="vnc", fdname="f"), Harmless()),
        (qmp("add_client", protocol="spice", fdname="f"), Harmless()),
        (qmp("add_client", protocol="@dbus-display", fdname="f"), Harmless()),
        (qmp("qom-set", path="/a", property="x-postcopy-ram", value=False), Harmless()),
        (qmp("qom-set", path="/a", property="x-postcopy-ram", value=True), POSTCOPY),
        (qmp("qom-set", path="/a", property="x-postcopy-ram", value=0), POSTCOPY),
        (qmp("qom-set", path="/a", property="realized", value=1), SetProperty(Change("/a", "realized"))),
        (qmp("qom-set", path="/a", property="guest-stats-polling-interval", value=1), Harmless()),
        (qmp("qom-set", path="/a", property="x-xbzrle", value=True), Harmless()),
        (qmp("qom-set", path="/a", property="fd", value="i0"), Harmless()),
        (qmp("qom-set", path="/a", property="fd", value="04"), UseDescriptor("fd")),
        (qmp("object-add", **{"qom-type": "iommufd", "fd": "i0"}), UseAddress(("iommufd", "i0"))),
        (qmp("object-add", **{"qom-type": "iommufd", "fd": 4}), UseDescriptor("fd")),
        (qmp("add_client", protocol="mon0", fdname="f"), OpenMonitor("add_client to the character device 'mon0'")),
    ],
    ids=str,
)
def test_what_a_request_is_taken_for(request_: Request, reading: object) -> None:
    assert taken_for(request_) == reading


@pytest.mark.parametrize(
    "request_",
    [
        qmp("object-add"),
        qmp("object-del"),
        qmp("add_client"),
        qmp("qom-set", path=1, property="x"),
        qmp("qom-set", path="x", property=None),
        qmp("object-add", **{"qom-type": "rng-random", "more": MANY}),
    ],
    ids=lambda request: str(request)[:80],
)
def test_what_cannot_be_read_says_why(request_: Request) -> None:
    reading = taken_for(request_)
    assert isinstance(reading, Unreadable)
    assert reading.reason


def test_whatever_kind_of_monitor_is_made_is_one() -> None:
    assert isinstance(taken_for(qmp("object-add", **{"qom-type": "monitor-of-tomorrow"})), OpenMonitor)


@pytest.mark.parametrize("name", sorted(MONITOR_PROPERTIES))
def test_a_property_of_a_monitor_is_no_property_of_a_device(name: str) -> None:
    assert name not in VFIO_PROPERTIES
    reading = taken_for(qmp("qom-set", path="/objects/m", property=name, value=1))
    assert reading == ChangeMonitor("/objects/m", f"qom-set of '{name}' of '/objects/m'")
