"""Readers of what starts, steers or prepares a migration: the operation that each request would be."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.combination import Combination, Moment, Parameter
from qmpguard.policy.migration import Start
from qmpguard.policy.operations import RunProgram, SetCapabilities, StartMigration, UseDescriptor
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import READERS
from qmpguard.policy.reading.migration import read_set_parameters, switched
from qmpguard.policy.reading.result import Arguments, Harmless, Unreadable
from tests.support.scenes import Request, caps, channel, qmp

TO_DISK = {"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]}
MANY: list[Any] = [[]] * 20000  # more values than are looked through


def taken_for(request: Request) -> object:
    return READERS[request["execute"]].read(request.get("arguments", {}), Policy())


@pytest.mark.parametrize(
    ("request_", "reading"),
    [
        (qmp("migrate-set-parameters", **{"downtime-limit": 5}), Harmless()),
        (
            qmp("migrate-set-parameters", **{"postcopy-ram": False, "background-snapshot": True}),
            SetCapabilities((("background-snapshot", True), ("postcopy-ram", False))),
        ),
        (caps(("xbzrle", True)), Harmless()),
        (caps(*(("xbzrle", False),) * 1024), Harmless()),  # 1,025 cannot be read
        (caps(("postcopy-ram", True), ("postcopy-ram", False)), Harmless()),
        (
            caps(("postcopy-ram", False), ("postcopy-ram", True)),
            SetCapabilities((("postcopy-ram", False), ("postcopy-ram", True))),
        ),
        (qmp("migrate_cancel"), Harmless()),
        (qmp("migrate-pause"), Harmless()),
        (qmp("migrate-recover", uri="exec:cat"), RunProgram("uri 'exec:cat'")),
        (qmp("migrate-set-parameters", **{"postcopy-ram": False}), Harmless()),
        (qmp("migrate-set-parameters", **{"cpr-exec-command": ["q"]}), RunProgram("cpr-exec-command")),
        (
            qmp("migrate-set-parameters", **{"postcopy-ram": True, "cpr-exec-command": ["q"]}),
            SetCapabilities((("postcopy-ram", True),), "cpr-exec-command"),
        ),
        (qmp("migrate", uri="tcp:h:1", resume=True), Harmless()),
        (qmp("migrate", uri="exec:x", resume=True), RunProgram("uri 'exec:x'")),
        (qmp("migrate-recover", uri="tcp:h:1", new=1), Harmless()),
        (qmp("migrate-recover", uri="fd:4"), UseDescriptor("uri")),
        (qmp("migrate-recover", uri="fd:name"), Harmless()),
        (qmp("migrate", uri="fd:4"), StartMigration(Start.OUTGOING, numbered="uri")),
        (qmp("migrate", uri="fd:name"), StartMigration(Start.OUTGOING)),
        (qmp("migrate", uri="exec:cat"), StartMigration(Start.OUTGOING, "uri 'exec:cat'")),
        (qmp("migrate", channels=channel(transport="rdma")), StartMigration(Start.OUTGOING)),
        (qmp("migrate", channels=[5, {"addr": 5}]), StartMigration(Start.OUTGOING)),
        (qmp("migrate-incoming", uri="tcp:h:1"), StartMigration(Start.INCOMING)),
        (qmp("migrate-start-postcopy"), StartMigration(Start.POSTCOPY)),
        (qmp("migrate", uri="tcp:[::1]:1"), StartMigration(Start.OUTGOING)),
        (qmp("migrate", uri="rdma:h:1"), StartMigration(Start.OUTGOING, to_another_host=True)),
        (qmp("migrate", channels=channel(transport="socket", host="h")), StartMigration(Start.OUTGOING, None, True)),
        (qmp("migrate", channels=channel(transport="socket", host="::1")), StartMigration(Start.OUTGOING)),
        (qmp("snapshot-save", **TO_DISK), StartMigration(Start.SAVE)),
        (qmp("snapshot-load", **TO_DISK), StartMigration(Start.LOAD)),
    ],
    ids=str,
)
def test_what_a_request_is_taken_for(request_: Request, reading: object) -> None:
    assert taken_for(request_) == reading


@pytest.mark.parametrize(
    "request_",
    [
        qmp("migrate-set-capabilities"),
        caps(*(("xbzrle", False),) * 1025),
        qmp("migrate-set-parameters", **{"postcopy-ram": 1}),
        qmp("migrate", uri="tcp:h:1", resume=1),
        qmp("migrate", uri="tcp:h:1", channels=MANY),
        qmp("migrate-incoming", channels=MANY),
        qmp("migrate-recover", uri="tcp:h:1", channels=MANY),
        qmp("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True, "more": 1}]),
        qmp("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": 1}]),
    ],
    ids=lambda request: str(request)[:80],
)
def test_what_cannot_be_read_says_why(request_: Request) -> None:
    reading = taken_for(request_)
    assert isinstance(reading, Unreadable)
    assert reading.reason


def test_a_combination_of_a_site_makes_its_settings_matter() -> None:
    row = Combination("own", ("virtio-net*",), Parameter("mode", "cpr-reboot"), frozenset({Moment.SET}), "no")
    request: Arguments = {"mode": "cpr-reboot", "downtime-limit": 5}
    reading = read_set_parameters(request, Policy(combinations=(row,)))
    assert reading == SetCapabilities((), None, (("mode", "cpr-reboot"),))
    assert read_set_parameters(request, Policy()) == Harmless()


def test_only_the_last_state_of_a_capability_counts() -> None:
    assert switched([("postcopy-ram", True), ("postcopy-ram", False)], Policy()) == Harmless()
    assert switched([("postcopy-ram", True)], Policy()) == SetCapabilities((("postcopy-ram", True),))


def test_a_program_may_be_named_by_a_channel() -> None:
    arguments = channel(transport="exec", args=["/bin/cat"])
    assert taken_for(qmp("migrate", channels=arguments)) == StartMigration(
        Start.OUTGOING, "a channel with transport 'exec'"
    )
