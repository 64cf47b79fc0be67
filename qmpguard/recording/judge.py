"""A recorded VM, judged again: each command of the recording by the present rules, on the machine that QEMU was then.

It reads, surveys and remembers as the gate does (`qmpguard.proxy.judging.gate`), with the recording in QEMU's place.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from qmpguard.policy.bursts import Unexpected
from qmpguard.policy.facts import Fact, numbers
from qmpguard.policy.judgment import concerns
from qmpguard.policy.observer import RULE as OBSERVER
from qmpguard.policy.observer import judge_observer
from qmpguard.policy.operations import AddDevice, CallUnlisted
from qmpguard.policy.policy import Policy
from qmpguard.policy.problem import Refusal
from qmpguard.policy.readers import READERS, read
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.rules import UNVERIFIED, passes_unjudged, unverified_mode
from qmpguard.policy.schema import Schema, read_schema
from qmpguard.policy.survey import PERIPHERAL, inquire, observe
from qmpguard.policy.verdict import Verdict, refused_by_qemu, unverified
from qmpguard.proxy.judging.memory import Memory
from qmpguard.proxy.judging.refusal import was_accepted
from qmpguard.recording.lines import (
    GUARD,
    EventSeen,
    Exchange,
    LinesLost,
    LinkUp,
    PolicyInUse,
    QemuStarted,
    Remembered,
    Said,
)
from qmpguard.recording.machine import NotRecorded, RecordedMachine, RefusedThen
from qmpguard.wire.qemu_messages import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from qmpguard.policy.bursts import Answer, Query
    from qmpguard.policy.device import Device
    from qmpguard.policy.facts import Facts
    from qmpguard.policy.operations import Operation
    from qmpguard.recording.lines import Line
    from qmpguard.wire.json import Value

_T = TypeVar("_T")

#: what stands in place of a secret or of what was too long (`qmpguard.logs.secret`, `qmpguard.policy.hmp.shown`)
HIDDEN = ("[hidden]", "[left out]")
#: why nothing is judged after a line `lost`: a device, a capability or the policy may have changed in the lines before
LOST = "lines of the recording were lost before it"
#: the part of an error by which a refusal of the guard can be told from QEMU's
OURS = "qmpguard: rule "
#: what a look at the machine asks, and the query that comes last
_LOOK = (Fact.CAPABILITIES, Fact.DEVICES, Fact.DETAILS, Fact.STANDBYS, Fact.RUNSTATE, Fact.MIGRATION)
_LAST_OF_LOOK = "query-migrate"


@dataclass(frozen=True, slots=True)
class NotJudged:
    """A command that cannot be judged again, and why."""

    reason: str


#: the result of judging a command again. None: the guard would not judge it
Again: TypeAlias = "Verdict | NotJudged | None"


class RecordedVm:
    """One VM of a recording. ``choose`` makes the policy to judge by from the recorded one.

    ``schemas`` are those of the recording, by QEMU's version: a guard of many VMs asks for each only once.
    """

    def __init__(self, choose: Callable[[Policy], Policy], schemas: dict[str, Schema] | None = None) -> None:
        self.machine = RecordedMachine()
        self.guarded = False
        self.has_lost = False  # lines of the recording were lost, so nothing is judged any more
        self._choose = choose
        self._policy = choose(Policy())
        self._schemas = {} if schemas is None else schemas
        self._version = ""
        self._own: frozenset[str] = frozenset()
        self._memory = Memory()
        self._schema: Schema | None = None
        self._primaries: list[Device] = []  # accepted, and not looked for yet

    @property
    def policy(self) -> Policy:
        """The policy by which commands are judged at this line."""
        return self._policy

    def adopt(self, recorded: Policy, own: tuple[str, ...]) -> None:
        """Take the policy that the guard had from here on."""
        self.guarded = True
        self._policy = self._choose(recorded)
        self._own = frozenset(own)

    def recall(self, facts: Facts) -> None:
        """Take what the guard remembers from before: of the same QEMU, on an earlier link or in an earlier file."""
        self._memory.recall(facts)

    def judge(self, line: Exchange) -> Again:
        """Return the verdict on a command, on the machine as it was before. `happened` takes the line afterwards."""
        if line.client == GUARD:
            return None
        reading = self._read(line)
        if self.has_lost:
            return None if line.said is None and reading is None else NotJudged(LOST)
        if line.said is not None and dict(line.said.rules).get(OBSERVER):
            return judge_observer(line.command, line.arguments or {}, self._known.commands)
        if reading is None:
            return None
        if isinstance(reading, Unreadable):
            return unverified(reading.reason, unverified_mode(self._policy))
        if line.said is not None and UNVERIFIED in dict(line.said.rules):
            return NotJudged("QEMU did not answer the guard then")
        return self._verdict(line.command, reading)

    def happened(self, line: Line) -> None:
        """Take a line: what it tells of the machine, and what a guard remembers of it."""
        match line:
            case QemuStarted(_, arguments):
                self.machine.starts(arguments)
            case LinkUp(_, version):
                self._connect(version)
            case Exchange():
                reading = None if line.client == GUARD else self._read(line)
                self.machine.happened(line)
                self._take_answer(line)
                self._remember(reading, line)
            case EventSeen(_, event, data):
                self.machine.happened(line)
                self._memory.happened(event, data)
            case PolicyInUse() | Remembered() | LinesLost() | _:
                pass

    @property
    def _known(self) -> Facts:
        commands = None if self._schema is None else self._schema.commands
        return self._memory.facts(commands, self._own)

    def _connect(self, version: str) -> None:
        """Begin with another QEMU, unless its command line has begun it already."""
        if not self.machine.is_started:
            self.machine = RecordedMachine()
        self._memory, self._primaries, self._version = Memory(), [], version
        self._schema = self._schemas.get(version)
        self._memory.version = numbers(version)

    def _read(self, line: Exchange) -> Operation | Unreadable | None:
        """Return what there is to judge; the gate reads the same way."""
        if line.command in READERS:
            reading = read(line.command, line.arguments or {}, self._policy, self._schema)
            return None if isinstance(reading, Harmless) or not concerns(type(reading), self._policy) else reading
        known = self._known.commands
        if not concerns(CallUnlisted, self._policy) or (known is not None and passes_unjudged(line.command, known)):
            return None
        return CallUnlisted(line.command)

    def _verdict(self, command: str, reading: Operation) -> Again:
        try:
            verdict, facts = self._drive(inquire(reading, self._policy, self._known))
        except NotRecorded as missing:
            return NotJudged(f"the recording has no answer to {missing}")
        except RefusedThen as error:
            mode = unverified_mode(self._policy)
            refusal = Refusal(error.command, error.error_class, error.text)
            return refused_by_qemu(command, refusal, self._known.commands, mode) or unverified(str(error), mode)
        except Unexpected as error:
            return NotJudged(f"an answer in the recording cannot be read: {error}")
        self._memory.saw(facts)
        return verdict

    def _drive(self, questions: Generator[tuple[Query, ...], tuple[Answer, ...], _T]) -> _T:
        try:
            queries = next(questions)
            while True:
                queries = questions.send(tuple(self.machine.answer(query) for query in queries))
        except StopIteration as done:
            result: _T = done.value
            return result

    def _take_answer(self, line: Exchange) -> None:
        """Take what the guard itself asked: it learns from each look at the machine, and of the schema."""
        if not line.returned:
            return
        if line.command == "query-qmp-schema":
            with suppress(ValueError):
                self._schema = self._schemas[self._version] = read_schema(line.reply["return"])
        if line.client == GUARD and line.command == _LAST_OF_LOOK:
            with suppress(NotRecorded, RefusedThen, Unexpected):
                self._memory.saw(self._drive(observe(self._policy, self._known, _LOOK)))
        if line.command == "qom-list" and line.arguments == {"path": PERIPHERAL}:
            self._hide_primaries()

    def _hide_primaries(self) -> None:
        """Remember the failover primaries that QEMU has accepted and does not list."""
        for device in self._primaries:
            shown = self.machine.devices.get(f"{PERIPHERAL}/{device.id}", {})
            if shown.get("failover_pair_id") != device.failover_pair_id:
                self._memory.primaries.add(device)
        self._primaries.clear()

    def _remember(self, reading: Operation | Unreadable | None, line: Exchange) -> None:
        reply = reply_of(line)
        if reading is None or OURS in reply.text:
            return
        self._memory.on_reply(reading, reply)
        if isinstance(reading, AddDevice) and reading.device.failover_pair_id and was_accepted(reply):
            self._primaries.append(reading.device)


def reply_of(line: Exchange) -> Reply:
    """Return QEMU's reply as the guard reads it."""
    if line.returned:
        value: Value = line.reply["return"]
        return Reply(accepted=True, text=value if isinstance(value, str) else "")
    error = line.reply.get("error")
    return Reply(accepted=False, text=str(error.get("desc", "")) if isinstance(error, dict) else "")


def said(verdict: Verdict) -> Said:
    """Return a verdict as a recording has it."""
    passed = "warned" if verdict.findings else "allowed"
    outcome = passed if verdict.refusal is None else "refused"
    return Said(outcome, tuple((finding.rule, finding.mode.value) for finding in verdict.findings))


def has_hidden(value: Value) -> bool:
    """Say whether a part of a command's arguments was hidden in the recording."""
    match value:
        case str():
            return any(word in value for word in HIDDEN)
        case dict():
            return any(has_hidden(member) or has_hidden(name) for name, member in value.items())
        case list():
            return any(map(has_hidden, value))
        case _:
            return False
