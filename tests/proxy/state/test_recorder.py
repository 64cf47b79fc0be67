"""The recorder: what happens goes into the journal, the counters and the log, each in one place and once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.drift import Drift
from qmpguard.policy.facts import Fact
from qmpguard.policy.policy import Mode
from qmpguard.policy.verdict import Finding, Problem, Verdict
from qmpguard.proxy.state.recorder import Recorder
from qmpguard.record import Decision, Event, LinkChange, Peer, Run
from qmpguard.wire.qemu_messages import QemuEvent

if TYPE_CHECKING:
    from qmpguard.record import Record

PEER = Peer(3, 10, 20, 30)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder("vm", Run())


def happened(recorder: Recorder) -> list[Record]:
    return [entry.what for entry in recorder.journal.since(0)]


def verdict(*findings: tuple[str, Mode]) -> Verdict:
    return Verdict(tuple(Finding(rule, mode, Problem("it breaks", "stop it")) for rule, mode in findings))


def test_at_first_no_qemu_was_there(recorder: Recorder) -> None:
    assert (recorder.standing.up, recorder.standing.reason) == (False, "QEMU has not appeared yet")
    assert recorder.qemu == "gone"
    assert happened(recorder) == []


def test_a_link_comes_and_goes(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    recorder.up("10.0.2")
    assert (recorder.standing.up, recorder.qemu, recorder.counts.links) == (True, "10.0.2", 1)
    assert [recorder.standing.since] == [entry.time for entry in recorder.journal.since(0)]
    recorder.down("QEMU closed the connection")
    assert (recorder.standing.up, recorder.standing.reason) == (False, "QEMU closed the connection")
    assert (recorder.qemu, recorder.counts.links) == ("gone", 1)
    assert happened(recorder) == [
        LinkChange(up=True, what="10.0.2"),
        LinkChange(up=False, what="QEMU closed the connection"),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "vm=vm link=up qemu=10.0.2",
        "vm=vm link=down reason='QEMU closed the connection'",
    ]


def test_why_there_is_no_link_may_be_said_better_but_not_while_there_is_one(recorder: Recorder) -> None:
    since = recorder.standing.since
    recorder.absent("no such socket", "missing")
    assert (recorder.standing.reason, recorder.standing.cause) == ("no such socket", "missing")
    assert recorder.standing.since == since
    recorder.up("10.0.2")
    standing = recorder.standing
    recorder.absent("no such socket", "missing")
    assert recorder.standing == standing
    assert len(happened(recorder)) == 1, "that is no happening of its own"


def test_an_event_is_kept_as_text(recorder: Recorder) -> None:
    recorder.event(QemuEvent(b"", "STOP", {"a": [1, None]}))
    (event,) = happened(recorder)
    assert isinstance(event, Event)
    assert (event.name, json.loads(event.data)) == ("STOP", {"a": [1, None]})
    assert recorder.counts.events == 1


def test_drift_is_counted_and_the_last_one_shown(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    drift = Drift(Fact.RUNSTATE, ("running",), ("paused",))
    recorder.drifted(drift)
    assert recorder.counts.drifts == 1
    assert recorder.last_drift is not None
    assert recorder.last_drift.what is drift
    assert "not changed through the guard" in caplog.text


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (verdict(), []),
        (verdict(("a", Mode.WARN)), ["warned rule=a"]),
        (verdict(("a", Mode.WARN), ("b", Mode.ENFORCE)), ["warned rule=a", "refused rule=b"]),
    ],
)
def test_a_decision_is_on_record_with_its_reference_and_a_line_for_each_finding(
    found: Verdict, lines: list[str], recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.up("10.0.2")
    caplog.clear()
    decision = recorder.decided(PEER, "migrate", found, 0.5)
    assert decision == Decision(decision.ref, PEER, "migrate", found, "10.0.2", "unknown", 0.5)
    assert happened(recorder)[-1] is decision
    assert recorder.counts.allowed == (not lines)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"vm=vm client={PEER} command=migrate verdict={line} ref={decision.ref} reason='it breaks'" for line in lines
    ]


def test_each_decision_has_a_reference_of_its_own(recorder: Recorder) -> None:
    assert len({recorder.decided(PEER, "migrate", verdict(), 0.0).ref for _ in range(10)}) == 10
