"""A refusal in the form of its command, and what QEMU's own reply says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qmpguard.policy.mode import Mode
from qmpguard.policy.problem import Finding, Problem
from qmpguard.policy.verdict import Verdict
from qmpguard.proxy.clients.pending import PendingRequest
from qmpguard.proxy.judging.refusal import refusal_reply, was_accepted
from qmpguard.record import Decision, Peer
from qmpguard.wire.client_messages import Request
from qmpguard.wire.qemu_messages import Reply

HMP = "human-monitor-command"


def pending(command: str, arguments: dict[str, Any] | None = None) -> PendingRequest:
    request = Request(command, arguments, b'"the id"', oob=False)
    return PendingRequest(None, request)  # type: ignore[arg-type]  # no session is needed for a reply


def decided(mode: Mode = Mode.ENFORCE, **options: Any) -> Decision:
    finding = Finding("vfio-postcopy", mode, Problem("it is not supported", "turn it off", **options))
    return Decision("r-1", Peer(1), "x", Verdict((finding,)), "10.0.2")


def reply(found: bytes | None) -> dict[str, Any]:
    assert found is not None
    read: dict[str, Any] = json.loads(found)
    assert read.pop("id") == "the id"
    return read


def test_a_command_of_qmp_fails_with_an_error() -> None:
    error = reply(refusal_reply(pending("migrate"), decided()))["error"]
    assert error["class"] == "GenericError"
    assert error["desc"].startswith("it is not supported (qmpguard: rule vfio-postcopy")
    assert "ref r-1" in error["desc"]


def test_a_line_of_hmp_fails_as_text_of_a_reply_that_succeeds() -> None:
    said = reply(refusal_reply(pending(HMP, {"command-line": "migrate x"}), decided()))
    assert said["return"].startswith("Error: it is not supported (")
    assert said["return"].endswith("\r\n")


@pytest.mark.parametrize("arguments", [None, {}, {"command-line": 5}])
def test_where_qemu_would_not_come_to_look_at_the_line_it_is_an_error(arguments: dict[str, Any] | None) -> None:
    assert "error" in reply(refusal_reply(pending(HMP, arguments), decided()))


def test_what_qemu_itself_would_refuse_is_refused_in_its_class_and_words() -> None:
    decision = decided(as_qemu=True, error_class="CommandNotFound")
    for command, arguments in (("migrate", None), (HMP, {"command-line": "x"})):
        assert reply(refusal_reply(pending(command, arguments), decision)) == {
            "error": {"class": "CommandNotFound", "desc": "it is not supported"}
        }


@pytest.mark.parametrize("verdict", [Verdict(), decided(Mode.WARN).verdict])
def test_where_nothing_is_refused_there_is_no_reply(verdict: Verdict) -> None:
    decision = Decision("r", Peer(1), "x", verdict, "10.0.2")
    assert refusal_reply(pending("migrate"), decision) is None


@pytest.mark.parametrize(
    ("said", "accepted"),
    [
        (Reply(accepted=True), True),
        (Reply(accepted=False), False),
        (Reply(accepted=True, text="some output"), True),
        (Reply(accepted=True, text="Error: it failed\r\n"), False),
        (Reply(accepted=True, text="warning: old\r\nError: it failed\r\n"), False),
        (Reply(accepted=True, text="no Error here"), True),
    ],
)
def test_a_reply_of_hmp_is_a_success_where_no_line_of_it_is_an_error(said: Reply, *, accepted: bool) -> None:
    assert was_accepted(said) is accepted


def test_a_command_of_qmp_fails_with_an_error_whatever_its_arguments_are_called() -> None:
    arguments = {"driver": "vfio-pci", "id": "gpu0", "command-line": "info status"}
    assert "error" in reply(refusal_reply(pending("device_add", arguments), decided()))
