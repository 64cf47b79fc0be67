"""QEMU's machine from its recording: what a survey is answered at each line, and what it cannot be answered."""

from __future__ import annotations

import pytest

from qmpguard.policy.bursts import Missing, Query
from qmpguard.recording.lines import EventSeen, Exchange, Members
from qmpguard.recording.machine import NotRecorded, RecordedMachine, RefusedThen

CAPABILITIES = Query("query-migrate-capabilities")
STATUS, MIGRATION, PARAMETERS = Query("query-status"), Query("query-migrate"), Query("query-migrate-parameters")
NODES = Query("query-named-block-nodes", (("flat", True),))
PERIPHERAL = Query("qom-list", (("path", "/machine/peripheral"),))
ANONYMOUS = Query("qom-list", (("path", "/machine/peripheral-anon"),))


def get(path: str, name: str) -> Query:
    return Query("qom-get", (("path", path), ("property", name)), optional=True)


def did(command: str, arguments: Members | None = None, returned: object = None) -> Exchange:
    reply: Members = {"return": {} if returned is None else returned}  # type: ignore[dict-item]
    return Exchange("vm", command, arguments, reply)


def switch(name: str, *, on: bool) -> Exchange:
    return did("migrate-set-capabilities", {"capabilities": [{"capability": name, "state": on}]})


def started(*arguments: str) -> RecordedMachine:
    machine = RecordedMachine()
    machine.starts(arguments)
    return machine


def test_what_the_recording_does_not_have_is_not_guessed() -> None:
    machine = RecordedMachine()
    for query in (CAPABILITIES, STATUS, PARAMETERS, PERIPHERAL, NODES):
        with pytest.raises(NotRecorded):
            machine.answer(query)
    machine.happened(did("qom-list", {"path": "/machine/peripheral"}, [{"name": "a", "type": "child<vfio-pci>"}]))
    with pytest.raises(NotRecorded, match="host of /machine/peripheral/a"):
        machine.answer(get("/machine/peripheral/a", "host"))


def test_a_query_is_answered_as_it_was_last() -> None:
    machine = RecordedMachine()
    for share in (True, False):
        machine.happened(did("query-memdev", None, [{"share": share}]))
    assert machine.answer(Query("query-memdev")) == [{"share": False}]


def test_a_query_that_was_refused() -> None:
    machine = RecordedMachine()
    machine.happened(Exchange("vm", "query-memdev", None, {"error": {"class": "GenericError", "desc": "no"}}))
    assert machine.answer(Query("query-memdev", optional=True)) == Missing()
    with pytest.raises(RefusedThen, match="QEMU refused query-memdev: no"):
        machine.answer(Query("query-memdev"))


def test_devices_come_by_the_command_line_and_go_with_their_event() -> None:
    machine = started("qemu", "-device", "vfio-pci,host=1:0.0", "-device", '{"driver": "vfio-user-pci", "id": "b"}')
    machine.happened(did("device_add", {"driver": "e1000", "id": "c"}))
    assert machine.answer(PERIPHERAL) == [
        {"name": "b", "type": "child<vfio-user-pci>"},
        {"name": "c", "type": "child<e1000>"},
    ]
    assert machine.answer(ANONYMOUS) == [{"name": "device[0]", "type": "child<vfio-pci>"}]
    assert machine.answer(get("/machine/peripheral-anon/device[0]", "host")) == "1:0.0"
    assert machine.answer(get("peripheral/b", "type")) == "vfio-user-pci"
    assert machine.answer(get("/machine/peripheral/b", "host")) == Missing()
    assert machine.answer(get("/machine/peripheral/none", "host")) == Missing()
    machine.happened(EventSeen("vm", "DEVICE_DELETED", {"path": "/machine/peripheral/c"}))
    machine.happened(did("qom-list", {"path": "/machine/peripheral"}, []))
    assert machine.answer(PERIPHERAL) == []


def test_capabilities_follow_commands_and_lines_of_hmp() -> None:
    machine = started("qemu")
    assert {"capability": "postcopy-ram", "state": False} in machine.answer(CAPABILITIES)  # type: ignore[operator]
    machine.happened(switch("postcopy-ram", on=True))
    machine.happened(
        did("human-monitor-command", {"command-line": "migrate_set_capability background-snapshot on"}, "")
    )
    machine.happened(
        did("human-monitor-command", {"command-line": "migrate_set_capability xbzrle on"}, "Error: it cannot be\r\n")
    )
    states = machine.answer(CAPABILITIES)
    assert isinstance(states, list)
    assert {str(s["capability"]): s["state"] for s in states if isinstance(s, dict)} == {
        "background-snapshot": True,
        "postcopy-ram": True,
    }


def test_capabilities_by_the_command_line_are_unknown_until_qemu_tells_them() -> None:
    machine = started("qemu", "-global", "migration.x-postcopy-ram=on")
    with pytest.raises(NotRecorded):
        machine.answer(CAPABILITIES)


def test_run_state_and_migration_follow_events() -> None:
    machine = started("qemu", "-incoming", "defer")
    assert machine.answer(STATUS) == {"status": "inmigrate"}
    for line, status in (
        (EventSeen("vm", "RESUME", {}), "running"),
        (did("stop"), "paused"),
        (did("cont"), "running"),
        (EventSeen("vm", "STOP", {}), "paused"),
        (did("query-status", None, {"status": "postmigrate"}), "postmigrate"),
    ):
        machine.happened(line)
        assert machine.answer(STATUS) == {"status": status}
    assert machine.answer(MIGRATION) == {}
    machine.happened(did("migrate", {"uri": "u"}))
    assert machine.answer(MIGRATION) == {"status": "setup"}
    machine.happened(EventSeen("vm", "MIGRATION", {"status": "active"}))
    assert machine.answer(MIGRATION) == {"status": "active"}


def test_parameters_that_were_set_are_not_known_until_they_are_asked_again() -> None:
    machine = RecordedMachine()
    machine.happened(did("query-migrate-parameters", None, {"mode": "normal"}))
    assert machine.answer(PARAMETERS) == {"mode": "normal"}
    machine.happened(did("migrate-set-parameters", {"mode": "cpr-reboot"}))
    with pytest.raises(NotRecorded):
        machine.answer(PARAMETERS)


@pytest.mark.parametrize("device", ["{", "{}", '{"driver": 5}', '{"driver":' + "[" * 5000, '{"id": "x"}'])
def test_a_device_that_cannot_be_read_is_none(device: str) -> None:
    machine = started("qemu", "-device", device)
    assert machine.answer(PERIPHERAL) == machine.answer(ANONYMOUS) == []
