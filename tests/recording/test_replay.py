"""A recording judged again: where the verdict differs from that of then, and where it cannot be had."""

from __future__ import annotations

import json
from dataclasses import replace as changed

import pytest

from qmpguard.errors import UsageError
from qmpguard.policy.machine_json import policy_to_json
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.policy import Policy
from qmpguard.recording.lines import (
    GUARD,
    EventSeen,
    Exchange,
    Line,
    LinesLost,
    LinkUp,
    Members,
    PolicyInUse,
    QemuStarted,
    RecordingBegins,
    Remembered,
    Said,
    write_line,
)
from qmpguard.recording.replay import Rejudged, replay
from qmpguard.wire.json import encode

POSTCOPY: Members = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
REFUSED = Said("refused", (("vfio-postcopy", "enforce"),))
START = QemuStarted("vm", ("qemu", "-device", "vfio-pci,id=gpu0"))
ON = Exchange("vm", "migrate-set-capabilities", POSTCOPY, {"return": {}}, 1)


def policy(given: Policy | None = None) -> PolicyInUse:
    return PolicyInUse("vm", json.loads(json.dumps(policy_to_json(given or Policy()))))


def texts(*lines: Line) -> list[str]:
    return [encode(write_line(line)).decode() + "\n" for line in (RecordingBegins(), *lines)]


def again(*lines: Line, **changes: object) -> list[Rejudged]:
    return list(replay(texts(*lines), "file", lambda recorded: changed(recorded, **changes)))  # type: ignore[arg-type]


def test_the_same_verdict_is_no_difference() -> None:
    (one,) = again(START, policy(), changed(ON, said=REFUSED))
    assert (one.then, one.now, one.differs, one.reason) == (REFUSED, REFUSED, False, "")


@pytest.mark.parametrize("then", [None, Said("allowed"), Said("warned", (("vfio-postcopy", "warn"),))])
def test_another_verdict_is_a_difference(then: Said | None) -> None:
    (one,) = again(START, policy(), changed(ON, said=then))
    assert one.differs
    assert one.now == REFUSED


def test_without_a_guard_there_is_nothing_to_differ_from() -> None:
    (one,) = again(START, ON)
    assert one.now == REFUSED
    assert not one.differs


def test_the_policy_is_the_recorded_one_as_it_was_at_the_line() -> None:
    warned = Said("warned", (("vfio-postcopy", "warn"),))
    failed: Members = {"error": {"class": "GenericError", "desc": "not now"}}
    on = changed(ON, reply=failed)
    lines = (START, policy(), changed(on, said=REFUSED), policy(Policy(mode=Mode.WARN)), changed(on, said=warned))
    assert [one.differs for one in again(*lines)] == [False, False]
    assert [one.differs for one in again(*lines, mode=Mode.ENFORCE)] == [False, True]


def test_what_the_recording_has_no_answer_to_is_not_judged() -> None:
    (one,) = again(policy(), changed(ON, said=REFUSED))
    assert one.reason == "the recording has no answer to qom-list"
    assert not one.differs


def test_what_qemu_did_not_answer_then_is_not_judged() -> None:
    (one,) = again(START, policy(), changed(ON, said=Said("refused", (("unverified", "enforce"),))))
    assert one.reason == "QEMU did not answer the guard then"


def test_unreadable_arguments_are_refused_again() -> None:
    odd = Exchange("vm", "migrate", {"uri": "u", "odd": 1}, {"return": {}}, 1)
    (one,) = again(START, policy(), changed(odd, said=Said("refused", (("unverified", "enforce"),))))
    assert not one.differs
    assert one.reason == ""


def test_hidden_arguments_are_not_a_difference() -> None:
    line = Exchange("vm", "human-monitor-command", {"command-line": "device_add [hidden]"}, {"return": ""}, 1)
    (one,) = again(START, policy(), changed(line, said=Said("refused", (("new-monitor", "enforce"),))))
    assert one.reason == "its arguments are hidden in the recording"


def test_after_lines_that_were_lost_nothing_is_judged_until_the_next_run() -> None:
    """They may have plugged a device, or have changed the policy, of any VM; and of one that is not known yet."""
    judged, queries = changed(ON, said=REFUSED), Exchange("vm", "query-status", None, {"return": {}}, 1)
    others = [changed(each, vm="other") for each in (START, policy(), judged)]
    asked = Exchange("vm", "query-migrate-capabilities", None, {"return": []}, GUARD)
    lost = (LinesLost(1), queries, asked, judged, ON, policy(), judged, LinkUp("vm", "8.1.0"), judged, *others)
    found = again(START, policy(), judged, *lost, RecordingBegins(), START, policy(), judged)
    assert [one.reason for one in found] == ["", *["lines of the recording were lost before it"] * 5, ""]
    assert not any(one.differs for one in found)
    assert [one.now for one in found if not one.reason] == [REFUSED, REFUSED]


def test_the_guards_own_queries_are_answers_and_not_judged() -> None:
    asked = (
        Exchange("vm", "query-migrate-capabilities", None, {"return": POSTCOPY["capabilities"]}, GUARD),
        Exchange("vm", "qom-list", {"path": "/machine/peripheral"}, {"return": []}, GUARD),
    )
    assert again(START, policy(), *asked) == []


def test_a_refusal_of_the_guard_changes_nothing() -> None:
    text = "gpu0: no (qmpguard: rule vfio-postcopy, device 'gpu0'; ref 1)"
    refused = changed(ON, reply={"error": {"class": "GenericError", "desc": text}}, said=REFUSED)
    assert [one.now for one in again(START, policy(), refused, refused)] == [REFUSED, REFUSED]


def test_another_link_is_another_qemu_and_another_run_begins_anew() -> None:
    listed = [
        Exchange("vm", "qom-list", {"path": f"/machine/{folder}"}, {"return": []}, GUARD)
        for folder in ("peripheral", "peripheral-anon")
    ]
    lines: tuple[Line, ...] = (LinkUp("vm", "8.1.0"), policy(), *listed, LinkUp("vm", "8.1.0"), ON)
    assert again(*lines)[0].reason == "the recording has no answer to qom-list"
    (one,) = again(START, policy(), RecordingBegins(), LinesLost(3), ON)
    assert one.reason != ""
    assert not one.guarded


def test_a_hidden_failover_primary_is_remembered() -> None:
    standby = "virtio-net-pci,id=net0,failover=on"
    plug: Members = {"driver": "vfio-pci", "id": "gpu1", "host": "0:0.0", "failover_pair_id": "net0"}
    listed: Members = {"return": [{"name": "net0", "type": "child<virtio-net-pci>"}]}
    lines = (
        QemuStarted("vm", ("qemu", "-device", standby)),
        policy(),
        Exchange("vm", "device_add", plug, {"return": {}}, 1, said=Said("allowed")),
        Exchange(
            "vm", "qom-get", {"path": "/machine/peripheral/net0", "property": "failover"}, {"return": True}, GUARD
        ),
        Exchange("vm", "qom-list", {"path": "/machine/peripheral"}, listed, GUARD),
        ON,
    )
    assert again(*lines)[-1].now == REFUSED


def test_the_schema_of_one_vm_serves_the_others_of_its_version() -> None:
    schema: Members = {"return": [{"name": "query-x", "meta-type": "command", "arg-type": "0", "ret-type": "1"}]}
    lines = (
        LinkUp("other", "8.1.0"),
        Exchange("other", "query-qmp-schema", None, schema, GUARD),
        LinkUp("vm", "8.1.0"),
        policy(Policy(profile=Profile.STRICT)),
        Exchange("vm", "nonsense", None, {"return": {}}, 1),
    )
    (one,) = again(*lines)
    assert one.now == Said("refused", (("unknown-command", "enforce"),))


def test_an_observer_is_judged_as_one() -> None:
    line = Exchange("vm", "stop", None, {"return": {}}, 1, said=Said("refused", (("observer", "enforce"),)))
    (one,) = again(policy(), line)
    assert not one.differs


def test_a_memory_that_cannot_be_read_is_said() -> None:
    with pytest.raises(UsageError, match="file:2: this memory cannot be read: a memory has no 'odd'"):
        again(Remembered("vm", {"odd": 1}))


def test_a_policy_that_cannot_be_read_is_said() -> None:
    with pytest.raises(UsageError, match="file:2: this policy cannot be read: a policy has no 'odd'"):
        again(PolicyInUse("vm", {"odd": 1}), EventSeen("vm", "STOP", {}))
