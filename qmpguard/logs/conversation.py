"""The recording of a process: every command with its reply, every event, and the guard's verdicts and own queries.

The format is `qmpguard.recording.lines`. Secrets are hidden as in the traffic file, and in replies too.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Protocol

from qmpguard.logs.secret import LEFT_OUT, MAX_NAME, redacted, redacted_event, redacted_reply
from qmpguard.policy.facts import Facts
from qmpguard.policy.hmp.shown import COMMAND, shown
from qmpguard.policy.hmp.syntax import parse_line
from qmpguard.policy.machine_json import memory_to_json, policy_to_json
from qmpguard.record import Decision, Event, LinkChange
from qmpguard.recording.lines import (
    GUARD,
    EventSeen,
    Exchange,
    LinkLost,
    LinkUp,
    Members,
    PolicyInUse,
    RecordingBegins,
    Remembered,
    Said,
    write_line,
)
from qmpguard.version import __version__
from qmpguard.wire.json import Number, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.logs.linefile import Sink
    from qmpguard.policy.policy import Policy
    from qmpguard.proxy.clients.pending import PendingRequest
    from qmpguard.record import Entry, Peer, Record
    from qmpguard.recording.lines import Line
    from qmpguard.wire.client_messages import Request

log = logging.getLogger(__name__)

#: verdicts whose replies are not seen yet: one for each client of a process whose request is at QEMU
MAX_VERDICTS = 4096

#: the memory of a QEMU of which the guard has seen nothing yet
_NOTHING: Members = json.loads(json.dumps(memory_to_json(Facts())))
#: the line of HMP of which `shown` shows the arguments
_SETS_CAPABILITY = "migrate_set_capability"
#: bytes of a reply that is parsed, as for a verdict (`qmpguard.wire.qemu_messages.MAX_READ`)
MAX_REPLY = 1 << 20


class PolicySource(Protocol):
    """The source of the policies of all VMs of a process."""

    def policy(self, vm: str) -> tuple[Policy, frozenset[str]]:
        """Return the policy of a VM at this moment, and the names of the guard's own sockets."""
        ...

    def remembered(self, vm: str) -> Facts:
        """Return what the guard remembers of a VM's QEMU at this moment."""
        ...


class ConversationLog:
    """Writes the conversations of all VMs to a sink, except excluded commands of clients. No method raises."""

    def __init__(self, sink: Sink, policies: PolicySource, exclude: frozenset[str] = frozenset()) -> None:
        self._sink = sink
        self._policies = policies
        self._exclude = exclude
        self._links: dict[str, LinkUp] = {}
        self._written: dict[str, PolicyInUse] = {}  # the last policy of each VM
        self._remembered: dict[str, Members] = {}  # the last memory of each VM
        self._verdicts: dict[tuple[str, int, str], Said] = {}
        self.begin()

    def begin(self) -> None:
        """Write the first lines of a file: at the start, and after the file was rotated."""
        self._written.clear()
        self._remembered.clear()
        self._try("", self._begin)

    def on_request(self, vm: str, peer: Peer, request: Request) -> None:
        """Called with each request; it is written with its reply."""

    def on_reply(self, vm: str, pending: PendingRequest, reply: bytes) -> None:
        """Called with each reply; writes the exchange."""
        if pending.request.command not in self._exclude or pending.session.privileged:
            self._try(vm, lambda: self._put(self._exchange(vm, pending, reply)))

    def on_entry(self, entry: Entry) -> None:
        """Called with each new entry of a journal; writes events and changes of the link, and keeps verdicts."""
        self._try(entry.vm, lambda: self._on_record(entry.vm, entry.time, entry.what))

    def _try(self, vm: str, write: Callable[[], None]) -> None:
        try:
            write()
        except Exception as error:  # the conversation must go on
            log.error("vm=%s a line of the recording cannot be built: %r", vm, error, exc_info=error)
            self._sink.count()

    def _put(self, line: Line) -> None:
        self._sink.put(encode(write_line(line)))

    def _begin(self) -> None:
        self._put(RecordingBegins(program=f"qmpguard {__version__}", time=time.time()))
        for vm, link in self._links.items():
            self._put(link)
            self._note_policy(vm)
            self._note_memory(vm)

    def _on_record(self, vm: str, at: float, what: Record) -> None:
        match what:
            case LinkChange(up=True, what=version):
                self._links[vm] = LinkUp(vm, version, at)
                self._remembered.pop(vm, None)  # a reader forgets it with each link
                self._put(self._links[vm])
                self._note_policy(vm)
                self._note_memory(vm)
            case LinkChange(up=False, what=reason):
                self._links.pop(vm, None)
                self._put(LinkLost(vm, reason, at))
            case Event(name, data):
                self._put(
                    EventSeen(vm, name, redacted_event(json.loads(data, parse_float=Number, parse_constant=Number)), at)
                )
            case Decision() as decision:
                self._note_policy(vm)
                self._note_memory(vm)
                self._keep(vm, decision)
            case _:
                pass

    def _note_policy(self, vm: str) -> None:
        """Write the policy of a VM where it has changed: at a reload, and at each end of an override."""
        policy, own = self._policies.policy(vm)
        members: Members = json.loads(json.dumps(policy_to_json(policy)))
        line = PolicyInUse(vm, members, tuple(sorted(own)))
        if self._written.get(vm) != line:
            self._written[vm] = line
            self._put(PolicyInUse(vm, members, line.own, time.time()))

    def _note_memory(self, vm: str) -> None:
        """Write what the guard remembers of a QEMU where it has changed: at first that is nothing."""
        facts = self._policies.remembered(vm)
        members: Members = json.loads(json.dumps(memory_to_json(facts)))
        if self._remembered.get(vm, _NOTHING) != members:
            self._remembered[vm] = members
            self._put(Remembered(vm, members, time.time()))

    def _keep(self, vm: str, decision: Decision) -> None:
        """Keep a verdict until the reply to its command comes."""
        while len(self._verdicts) >= MAX_VERDICTS:  # of clients that have left
            del self._verdicts[next(iter(self._verdicts))]
        rules = tuple((finding.rule, finding.mode.value) for finding in decision.verdict.findings)
        self._verdicts[vm, decision.peer.number, decision.command] = Said(decision.outcome.value, rules)

    def _exchange(self, vm: str, pending: PendingRequest, reply: bytes) -> Exchange:
        request, session = pending.request, pending.session
        command = request.command[:MAX_NAME]
        return Exchange(
            vm,
            command,
            _arguments(request),
            _reply(command, request.arguments, reply),
            GUARD if session.privileged else session.peer.number,
            request.oob,
            pending.had_descriptor,
            None if session.privileged else self._verdicts.pop((vm, session.peer.number, command), None),
            time.time(),
        )


def _reply(command: str, arguments: Members | None, reply: bytes) -> Members:
    """Return a reply without secrets. What no QEMU sends, or is longer than `MAX_REPLY`, is left out as a whole."""
    if len(reply) > MAX_REPLY:
        return {"return": LEFT_OUT}
    try:
        members = json.loads(reply, parse_float=Number, parse_constant=Number)
    except (ValueError, RecursionError):
        return {"return": LEFT_OUT}
    return redacted_reply(command, arguments, members) if isinstance(members, dict) else {"return": LEFT_OUT}


def _arguments(request: Request) -> Members | None:
    """Return a command's arguments without secrets. Of a line of HMP that sets a capability all stays."""
    if request.arguments is None:
        return None
    found = redacted(request.command, request.arguments)
    assert isinstance(found, dict)
    line = request.arguments.get("command-line")
    if request.command == COMMAND and isinstance(line, str) and parse_line(line[:MAX_NAME]).name == _SETS_CAPABILITY:
        found["command-line"] = shown(request.command, request.arguments)
    return found
