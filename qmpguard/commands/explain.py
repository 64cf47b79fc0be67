"""``qmpguard explain``: the verdict on one command, without sending it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.commands.judging import add_policy_arguments, changed_by, policy_of, qemu_check_words, tell
from qmpguard.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from qmpguard.address import Address
    from qmpguard.policy.facts import Facts
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.qemu_check import QemuCheck
    from qmpguard.policy.readers import Unreadable
    from qmpguard.policy.verdict import Verdict
    from qmpguard.remote.standing import Standing
    from qmpguard.wire.client_messages import Request

SUMMARY = "judge one command without sending it"
DESCRIPTION = (
    "Say what would become of one QMP command, by which rule and why, without sending it. The machine is a live VM, by "
    "the guard's socket or QEMU's own, or a file: what check --json printed, or its member 'machine', perhaps changed "
    "by hand. Exit code 0: it would pass; 1: it would be refused, by the "
    "guard or, where it would start a migration, by QEMU itself."
)
_AS_SENT = '; give it as a client sends it: {"execute": ...}, and a line of HMP inside human-monitor-command'
#: what a file may have: a hundred devices take some 20 KB
MAX_FILE = 4 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--machine", metavar="FILE|ADDR", required=True, help="a saved machine, or where a live VM is")
    parser.add_argument("command", metavar="COMMAND", help="a QMP command as a client would send it")
    add_policy_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Judge, and tell."""
    request, stands = _request(arguments.command), _standing(arguments)
    reading = _reading(request, stands.policy)
    explained = Explained(request) if reading is None else _judged(request, reading, arguments.machine, stands)
    told = {**_for_programs(explained), "judged_by": stands.words}
    people = f"{_for_people(explained)}\n  judged by {stands.words}"
    print(json.dumps(told, indent=2) if arguments.json else people)
    return 1 if explained.refused else 0


def _standing(arguments: argparse.Namespace) -> Standing:
    """Return how to judge: as a file says, as the guard of a live VM does, or by default; changed by the options."""
    from qmpguard.address import parse_address
    from qmpguard.policy.policy import Policy
    from qmpguard.remote.standing import Standing, standing_of

    on_paper = _is_file(arguments.machine)
    stands = Standing(Policy(), "the default policy") if on_paper else standing_of(parse_address(arguments.machine))
    stands = stands.by(policy_of(arguments), "the given policy")
    return stands.changed(partial(changed_by, arguments))


def _is_file(machine: str) -> bool:
    """Say whether a machine is saved there, be it in a pipe; else it is where a live one is."""
    path = Path(machine)
    return path.is_file() or path.is_fifo()


@dataclass(frozen=True, slots=True)
class Explained:
    """A request, and the verdict on it; None where no rule looks at it.

    ``own`` is QEMU's own reason against any migration now, where the request would start one.
    """

    request: Request
    verdict: Verdict | None = None
    own: QemuCheck | None = None

    @property
    def refused(self) -> bool:
        """Say whether the request would be refused, by the guard or by QEMU itself."""
        return self.own is not None or (self.verdict is not None and self.verdict.refusal is not None)

    @property
    def outcome(self) -> str:
        """What would become of the request, in a word or two."""
        if self.verdict is None:
            return "not judged"
        if self.verdict.refusal is not None:
            return "refused"
        if self.own is not None:
            return "refused by QEMU"
        return "warned" if self.verdict.findings else "passes"


def _request(text: str) -> Request:
    """Read a command as the guard reads one from a socket."""
    from qmpguard.wire.client_messages import BadRequest, read_request
    from qmpguard.wire.framing import Framer, Message

    framer = Framer()
    framer.feed(text.encode(errors="surrogateescape") + b"\n")
    item = framer.pull_whole()
    if not isinstance(item, Message):
        raise UsageError("the command is no JSON" + (f": {item.desc}" if item else ": it is not complete") + _AS_SENT)
    request = read_request(item.value, oob=True)
    if isinstance(request, BadRequest):
        raise UsageError(f"the command is no request: {request.desc}")
    return request


def _reading(request: Request, policy: Policy) -> Operation | Unreadable | None:
    from qmpguard.policy.judgment import concerns
    from qmpguard.policy.operations import CallUnlisted
    from qmpguard.policy.readers import Harmless, read

    reading = read(request.command, request.arguments or {}, policy)
    if reading is None:
        reading = CallUnlisted(request.command)
    return None if isinstance(reading, Harmless) or not concerns(type(reading), policy) else reading


def _judged(request: Request, reading: Operation | Unreadable, machine: str, stands: Standing) -> Explained:
    from qmpguard.address import parse_address
    from qmpguard.policy.readers import Unreadable
    from qmpguard.policy.rules import unverified_mode
    from qmpguard.policy.verdict import unverified

    if isinstance(reading, Unreadable):
        return Explained(request, unverified(reading.reason, unverified_mode(stands.policy)))
    if _is_file(machine):
        return _on_paper(request, reading, _saved(Path(machine)), stands.policy)
    return asyncio.run(_alive(request, reading, parse_address(machine), stands))


async def _alive(request: Request, operation: Operation, address: Address, stands: Standing) -> Explained:
    from qmpguard.policy.facts import Fact, numbers
    from qmpguard.policy.survey import inquire, observe
    from qmpguard.remote.inspection import visit

    async with visit(address, tell) as guest:
        known = replace(stands.memory, version=numbers(guest.version))
        verdict, facts = await guest.ask(inquire(operation, stands.policy, known))
        if _starts(operation):
            facts = await guest.ask(observe(stands.policy, facts, (Fact.RUNSTATE, Fact.MIGRATION)))
    return Explained(request, verdict, _own(operation, facts))


def _on_paper(request: Request, operation: Operation, facts: Facts, policy: Policy) -> Explained:
    from qmpguard.policy.facts import Unknown
    from qmpguard.policy.judgment import judge
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.portrait import with_type

    try:
        verdict = judge(operation, Machine(with_type(facts, operation)), policy)
        return Explained(request, verdict, _own(operation, facts))
    except Unknown as unknown:
        raise UsageError(f"the saved machine does not say its {unknown}; ask a live VM") from unknown


def _starts(operation: Operation) -> bool:
    from qmpguard.policy.migration import Start
    from qmpguard.policy.operations import StartMigration

    return isinstance(operation, StartMigration) and operation.start is Start.OUTGOING


def _own(operation: Operation, facts: Facts) -> QemuCheck | None:
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.qemu_check import of_start

    return of_start(Machine(facts)) if _starts(operation) else None


def _saved(path: Path) -> Facts:
    from qmpguard.policy.portrait import read_portrait

    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or 'it is no JSON'}") from error
    try:
        return read_portrait(value["machine"] if isinstance(value, dict) and "machine" in value else value)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def _for_programs(explained: Explained) -> dict[str, object]:
    verdict = explained.verdict
    qemu_check = explained.own or (verdict.qemu_check if verdict else None)
    return {
        "command": explained.request.command,
        "verdict": explained.outcome,
        "findings": [
            {
                "rule": finding.rule,
                "mode": finding.mode.value,
                "reason": finding.problem.refusal,
                "devices": list(finding.problem.devices),
                "capability": finding.problem.capability,
                "fix": finding.problem.fix,
            }
            for finding in (verdict.findings if verdict else ())
        ],
        "error": verdict.refusal.text() if verdict and verdict.refusal else None,
        "qemu_itself": qemu_check_words(qemu_check) if qemu_check else None,
    }


_OUTCOMES = {
    "not judged": "it passes: no rule looks at it",
    "passes": "it passes",
    "warned": "it passes, with a warning",
    "refused": "it would be refused",
    "refused by QEMU": "it passes the guard, and QEMU itself would refuse it",
}


def _for_people(explained: Explained) -> str:
    lines = [f"{explained.request.command}: {_OUTCOMES[explained.outcome]}"]
    for finding in explained.verdict.findings if explained.verdict else ():
        lines += [f"  rule {finding.rule} ({finding.mode.value}): {finding.problem.refusal}"]
        lines += [f"    what helps: {finding.problem.fix}"]
    if explained.verdict and (explained.verdict.findings or explained.own):
        lines.append(f"  would QEMU itself refuse it? {explained.own or explained.verdict.qemu_check}")
    return "\n".join(lines)
