"""The table of what ends QEMU: its rows, what is like them and passes, and what a version changes."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.crashes import CRASHES, crash
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.policy import Policy, Profile
from qmpguard.policy.readers import DEADLY, read
from qmpguard.policy.reading.result import Harmless, Unreadable

OLD, NEW = (7, 2, 22), (11, 1, 3)
UNIX = {"transport": "socket", "type": "unix", "path": "/x"}
CPR = {"channel-type": "cpr", "addr": UNIX}
MAIN = {"channel-type": "main", "addr": UNIX}
EMPTY_EXEC = {"channel-type": "main", "addr": {"transport": "exec", "args": []}}
EXEC = {"channel-type": "main", "addr": {"transport": "exec", "args": ["cat"]}}


def line(text: str) -> tuple[str, dict[str, Any]]:
    return "human-monitor-command", {"command-line": text}


def said(command: str, arguments: dict[str, Any], machine: Machine, policy: Policy) -> str | None:
    """How the rule answers: its mode, None where it finds nothing."""
    reading = read(command, arguments, policy)
    assert not isinstance(reading, Unreadable)
    if reading is None or isinstance(reading, Harmless):
        return None
    return next((f.mode.value for f in judge(reading, machine, policy).findings if f.rule == "qemu-crash"), None)


#: a request, what becomes of it on an old and on a new QEMU, and in profile strict on a new one
TABLE: list[tuple[tuple[str, dict[str, Any]], str | None, str | None, str | None]] = [
    *(
        (("migrate", {"channels": c}), "enforce", "enforce", "enforce")
        for c in ([CPR], [EMPTY_EXEC], [EMPTY_EXEC, CPR])
    ),
    *((("migrate-incoming", {"channels": c}), "enforce", "enforce", "enforce") for c in ([CPR], [EMPTY_EXEC])),
    *((("migrate", {"channels": c}), None, None, None) for c in ([MAIN], [MAIN, CPR], [EXEC], [], [5], "x", None)),
    (("migrate", {"uri": "exec:"}), None, None, None),
    (("migrate", {"channels": [CPR], "resume": True}), None, None, None),
    (("xen-load-devices-state", {"filename": "/x"}), "enforce", "enforce", "enforce"),
    (("xen-save-devices-state", {"filename": "/x"}), None, None, None),
    *(
        (("qom-list-properties", {"typename": t}), "enforce", None, None)
        for t in ("colo-compare", "qio-net-listener", "microvm-machine", "x-remote-object")
    ),
    (("device-list-properties", {"typename": "colo-compare"}), None, None, None),  # it is no device
    (("qom-list-properties", {"typename": "e1000"}), None, None, None),
    (("qom-list-properties", {"typename": ["colo-compare"]}), None, None, None),
    (("qom-list-properties", {}), None, None, None),
    (("device-list-properties", {"typename": "vfio-pci"}), None, None, None),
    (("device-list-properties", {"typename": "virtio-gpu-gl-pci"}), "warn", "warn", "enforce"),
    (("qom-list-properties", {"typename": "qxl-vga"}), "warn", "warn", "enforce"),
    (("qom-list-types", {}), "warn", "warn", "enforce"),
    (("qom-list-types", {"implements": "device"}), "warn", "warn", "enforce"),
    (line("info qdm"), "warn", "warn", "enforce"),
    (line("device_add help"), "warn", "warn", "enforce"),
    (line("device_add e1000,help"), "warn", "warn", "enforce"),
    (line("info qtree"), None, None, None),
    (line("device_add"), None, None, None),
    (line("object_add help"), None, None, None),
]


@pytest.mark.parametrize(("request_", "old", "new", "strict"), TABLE)
def test_what_ends_qemu(
    request_: tuple[str, dict[str, Any]], old: str | None, new: str | None, strict: str | None
) -> None:
    assert said(*request_, Machine.of(version=OLD), Policy()) == old
    assert said(*request_, Machine.of(version=NEW), Policy()) == new
    assert said(*request_, Machine.of(version=NEW), Policy(profile=Profile.STRICT)) == strict
    assert said(*request_, Machine.of(), Policy()) == old  # what is not known counts as the worse one


def test_every_row_is_reached_and_says_where_it_was_seen() -> None:
    reached = {crash(command, arguments) for (command, arguments), *_ in TABLE}
    reached |= {crash("info qdm", {})}
    assert set(CRASHES) <= reached
    for row in CRASHES:
        assert all((row.commands, row.argument, row.how, row.seen, row.fix))
        for command in row.commands:
            assert command in (*DEADLY, "migrate", "migrate-incoming") or " " in command


def test_nothing_is_asked_of_qemu_for_it() -> None:
    reading: Any = read("qom-list-properties", {"typename": "colo-compare"}, Policy())
    refusal = judge(reading, Machine(), Policy()).refusal
    assert refusal is not None
    assert refusal.text() == (
        "QEMU may end here (abort or SIGSEGV): colo-compare, qio-net-listener, microvm-machine or x-remote-object; "
        "seen on 7.2.22, not 11.1.3 (qmpguard: rule qemu-crash; ask a QEMU of the same version that runs no VM)"
    )
