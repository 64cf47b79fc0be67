"""The limits of reading: those of QEMU, and one that keeps a client from holding up the others."""

from __future__ import annotations

from qmpguard.proxy.clients.reading import OUTSTANDING, QUERY, TURN, Reading, State


def test_as_many_requests_are_outstanding_as_qemu_keeps_and_executes() -> None:
    queue = 8  # monitor/qmp.c: QMP_REQ_QUEUE_LEN_MAX
    assert queue + 1 == OUTSTANDING
    assert OUTSTANDING <= TURN <= 16
    assert QUERY == "query-"


def test_a_session_begins_with_everything_to_read_and_nothing_under_way() -> None:
    reading = Reading()
    assert {reading.now, reading.paused, reading.stalled, reading.scheduled} == {False}
    assert (reading.wakeup, reading.count) == (-1, 0)


def test_the_words_of_the_states_are_those_of_the_admin_interface() -> None:
    assert [state.value for state in State] == ["waiting for QEMU", "negotiating", "commands", "ending", "closed"]
