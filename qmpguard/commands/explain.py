"""``qmpguard explain``: the verdict on one command, without sending it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.commands.policy_options import (
    add_policy_arguments,
    configured_policy,
    qemu_check_members,
    tell,
    with_options,
)
from qmpguard.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from qmpguard.address import Address
    from qmpguard.policy.facts import Facts
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.qemu_check import QemuCheck
    from qmpguard.policy.reading.result import Unreadable
    from qmpguard.policy.verdict import Verdict
    from qmpguard.remote.effective_policy import EffectivePolicy
    from qmpguard.wire.client_messages import Request

SUMMARY = "judge one command without sending it"
DESCRIPTION = (
    "Show the verdict on one QMP command, with rule and reason, without sending it. The machine is a live VM, by the "
    "guard's socket or QEMU's own, or a file: the output of check --json, or its member 'machine', perhaps edited. "
    "Exit code 0: the command would pass; 1: it would be refused, by the guard or, where it would start a migration, "
    "by QEMU itself."
)
_AS_SENT = '; give it as a client sends it: {"execute": ...}, and a line of HMP inside human-monitor-command'
#: bytes of a file; a hundred devices take some 20 KB
MAX_FILE = 4 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--machine", metavar="FILE|ADDR", required=True, help="a saved machine, or where a live VM is")
    parser.add_argument("command", metavar="COMMAND", help="a QMP command as a client would send it")
    add_policy_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Judge the command and print the verdict."""
    request, judged_by = _request(arguments.command), _effective_policy(arguments)
    reading = _reading(request, judged_by.policy)
    explanation = Explanation(request) if reading is None else _judged(request, reading, arguments.machine, judged_by)
    members = {**_json(explanation), "judged_by": judged_by.description}
    text = f"{_text(explanation)}\n  judged by {judged_by.description}"
    print(json.dumps(members, indent=2) if arguments.json else text)
    return 1 if explanation.refused else 0


def _effective_policy(arguments: argparse.Namespace) -> EffectivePolicy:
    """Return the policy to judge by: of a file, of the guard of a live VM, or the default; changed by the options."""
    from qmpguard.address import parse_address
    from qmpguard.policy.policy import Policy
    from qmpguard.remote.effective_policy import EffectivePolicy, effective_policy_at

    is_saved = _is_file(arguments.machine)
    judged_by = (
        EffectivePolicy(Policy(), "the default policy")
        if is_saved
        else effective_policy_at(parse_address(arguments.machine))
    )
    judged_by = judged_by.replaced_by(configured_policy(arguments), "the given policy")
    return judged_by.changed_by(partial(with_options, arguments))


def _is_file(machine: str) -> bool:
    """Say whether a machine is saved there, be it in a pipe; else it is where a live one is."""
    path = Path(machine)
    return path.is_file() or path.is_fifo()


@dataclass(frozen=True, slots=True)
class Explanation:
    """A request, and the verdict on it; None where no rule applies.

    ``own`` is QEMU's own refusal of any migration now, where the request would start one.
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
        """The verdict in a word or two."""
        if self.verdict is None:
            return "not judged"
        if self.verdict.refusal is not None:
            return "refused"
        if self.own is not None:
            return "refused by QEMU"
        return "warned" if self.verdict.findings else "passes"


def _request(text: str) -> Request:
    """Return a command, parsed as the guard parses one from a socket. Raises `UsageError`."""
    from qmpguard.wire.client_messages import BadRequest, read_request
    from qmpguard.wire.framing import Framer, Message

    framer = Framer()
    framer.feed(text.encode(errors="surrogateescape") + b"\n")
    item = framer.pull_whole()
    if not isinstance(item, Message):
        raise UsageError("the command is not JSON" + (f": {item.desc}" if item else ": it is not complete") + _AS_SENT)
    request = read_request(item.value, oob=True)
    if isinstance(request, BadRequest):
        raise UsageError(f"the command is not a QMP request: {request.desc}")
    return request


def _reading(request: Request, policy: Policy) -> Operation | Unreadable | None:
    from qmpguard.policy.judgment import concerns
    from qmpguard.policy.operations import CallUnlisted
    from qmpguard.policy.readers import read
    from qmpguard.policy.reading.result import Harmless

    reading = read(request.command, request.arguments or {}, policy)
    if reading is None:
        reading = CallUnlisted(request.command)
    return None if isinstance(reading, Harmless) or not concerns(type(reading), policy) else reading


def _judged(request: Request, reading: Operation | Unreadable, machine: str, judged_by: EffectivePolicy) -> Explanation:
    from qmpguard.address import parse_address
    from qmpguard.policy.reading.result import Unreadable
    from qmpguard.policy.rules import unverified_mode
    from qmpguard.policy.verdict import unverified

    if isinstance(reading, Unreadable):
        return Explanation(request, unverified(reading.reason, unverified_mode(judged_by.policy)))
    if _is_file(machine):
        return _judge_saved(request, reading, _read_saved(Path(machine)), judged_by.policy)
    return asyncio.run(_judge_live(request, reading, parse_address(machine), judged_by))


async def _judge_live(
    request: Request, operation: Operation, address: Address, judged_by: EffectivePolicy
) -> Explanation:
    from qmpguard.policy.facts import Fact, numbers
    from qmpguard.policy.survey import inquire, observe
    from qmpguard.remote.inspection import open_vm

    async with open_vm(address, tell) as vm:
        known = replace(judged_by.memory, version=numbers(vm.version))
        verdict, facts = await vm.ask(inquire(operation, judged_by.policy, known))
        if _starts_migration(operation):
            facts = await vm.ask(observe(judged_by.policy, facts, (Fact.RUNSTATE, Fact.MIGRATION)))
        elif _is_snapshot(operation):
            facts = await vm.ask(observe(judged_by.policy, facts, (Fact.CAPABILITIES,)))
    return Explanation(request, verdict, _own_reason(operation, facts))


def _judge_saved(request: Request, operation: Operation, facts: Facts, policy: Policy) -> Explanation:
    from qmpguard.policy.facts import Unknown
    from qmpguard.policy.judgment import judge
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.machine_json import with_type

    try:
        verdict = judge(operation, Machine(with_type(facts, operation)), policy)
        return Explanation(request, verdict, _own_reason(operation, facts))
    except Unknown as unknown:
        raise UsageError(f"the saved machine lacks this fact: {unknown}; use a live VM") from unknown


def _starts_migration(operation: Operation) -> bool:
    from qmpguard.policy.migration import Start
    from qmpguard.policy.operations import StartMigration

    return isinstance(operation, StartMigration) and operation.start is Start.OUTGOING


def _is_snapshot(operation: Operation) -> bool:
    from qmpguard.policy.migration import SNAPSHOTS
    from qmpguard.policy.operations import StartMigration

    return isinstance(operation, StartMigration) and operation.start in SNAPSHOTS


def _own_reason(operation: Operation, facts: Facts) -> QemuCheck | None:
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.qemu_check import check_of_start
    from qmpguard.policy.snapshots import check_of_snapshot

    if _is_snapshot(operation):
        return check_of_snapshot(Machine(facts))
    return check_of_start(Machine(facts)) if _starts_migration(operation) else None


def _read_saved(path: Path) -> Facts:
    from qmpguard.policy.machine_json import facts_from_json

    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or 'it is not JSON'}") from error
    try:
        return facts_from_json(value["machine"] if isinstance(value, dict) and "machine" in value else value)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error


def _json(explanation: Explanation) -> dict[str, object]:
    verdict = explanation.verdict
    qemu_check = explanation.own or (verdict.qemu_check if verdict else None)
    return {
        "command": explanation.request.command,
        "verdict": explanation.outcome,
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
        "qemu_itself": qemu_check_members(qemu_check) if qemu_check else None,
    }


_OUTCOMES = {
    "not judged": "it passes: no rule applies",
    "passes": "it passes",
    "warned": "it passes, with a warning",
    "refused": "it would be refused",
    "refused by QEMU": "it passes the guard, and QEMU itself would refuse it",
}


def _text(explanation: Explanation) -> str:
    lines = [f"{explanation.request.command}: {_OUTCOMES[explanation.outcome]}"]
    for finding in explanation.verdict.findings if explanation.verdict else ():
        lines += [f"  rule {finding.rule} ({finding.mode.value}): {finding.problem.refusal}"]
        lines += [f"    what helps: {finding.problem.fix}"]
    if explanation.verdict and (explanation.verdict.findings or explanation.own):
        lines.append(f"  would QEMU itself refuse it? {explanation.own or explanation.verdict.qemu_check}")
    return "\n".join(lines)
