"""Verdicts: the findings of the rules, and whether the request may pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qmpguard.policy.policy import Mode
from qmpguard.policy.qemu_check import UNKNOWN_CHECK, QemuCheck
from qmpguard.wire.client_messages import COMMAND_NOT_FOUND, GENERIC_ERROR

#: characters of one text in a verdict. A name from a client may have megabytes, and verdicts are kept.
MAX_TEXT = 1000


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


@dataclass(frozen=True, slots=True)
class Refusal:
    """QEMU's refusal of a query: the query's command, the error's class and its text."""

    command: str
    error_class: str
    text: str


@dataclass(frozen=True, slots=True)
class Problem:
    """The violation of one rule by a machine.

    ``refusal`` is QEMU's own sentence where it has one. ``devices`` and ``capability`` are the two halves of the
    combination, ``fix`` is the advice to the client. An ``advisory`` problem never refuses. ``error_class`` is one of
    QEMU's. ``as_qemu``: QEMU itself would refuse with this error, so the client gets exactly this text.
    """

    refusal: str
    fix: str
    devices: tuple[str, ...] = ()
    capability: str | None = None
    advisory: bool = False
    error_class: str = GENERIC_ERROR
    as_qemu: bool = False
    parameter: str | None = None  # with its value, in place of a capability

    def __post_init__(self) -> None:
        """Cut texts that are too long."""
        object.__setattr__(self, "refusal", _cut(self.refusal))
        object.__setattr__(self, "fix", _cut(self.fix))
        object.__setattr__(self, "devices", tuple(map(_cut, self.devices)))


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem, the rule that found it, and the rule's mode."""

    rule: str
    mode: Mode
    problem: Problem

    def text(self, ref: str = "") -> str:
        """Return the error text for the client: QEMU's sentence, then the guard's, with the decision's reference."""
        problem = self.problem
        if problem.as_qemu:
            return problem.refusal
        parts = [f"rule {self.rule}"]
        if problem.devices:
            noun = "device" if len(problem.devices) == 1 else "devices"
            parts.append(f"{noun} {', '.join(repr(d) for d in problem.devices)}")
        if problem.capability:
            parts.append(f"capability {problem.capability} is on")
        if problem.parameter:
            parts.append(f"parameter {problem.parameter}")
        reference = f"; ref {ref}" if ref else ""
        return f"{problem.refusal} (qmpguard: {', '.join(parts)}; {problem.fix}{reference})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass. Every violated rule that is not off is among the findings.

    ``qemu_check`` is QEMU's own check of the most severe finding.
    """

    findings: tuple[Finding, ...] = ()
    qemu_check: QemuCheck = UNKNOWN_CHECK

    @property
    def refusal(self) -> Finding | None:
        """The finding that refuses the request, None where it may pass."""
        return next((f for f in self.findings if f.mode is Mode.ENFORCE), None)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that do not refuse."""
        return tuple(f for f in self.findings if f.mode is Mode.WARN)


def unverified(reason: str, mode: Mode) -> Verdict:
    """Return the verdict on a request that could not be read or verified: a refusal, or a warning in mode ``warn``."""
    problem = Problem(
        f"This request could not be verified: {reason}",
        "nothing was sent to QEMU; correct the request, or try again when QEMU answers",
    )
    return Verdict((Finding("unverified", mode, problem),))


#: QEMU's error for any command before the machine is created (qapi/qmp-dispatch.c: qmp_command_available)
_TOO_EARLY = re.compile(r"The command '?(?P<command>[A-Za-z0-9_.-]+)'? is permitted only after ")
#: QEMU's error for an unknown command (qapi/qmp-dispatch.c: do_qmp_dispatch)
_NOT_FOUND = "The command {} has not been found"


def refused_by_qemu(command: str, error: Refusal, commands: frozenset[str] | None, mode: Mode) -> Verdict | None:
    """Return the verdict on a request that QEMU itself would refuse, by QEMU's refusal of a query of the survey.

    The client gets the error that QEMU would give for its command. ``commands`` are those of QEMU's schema; None: not
    read. Returns None where QEMU might execute the request.
    """
    early = _TOO_EARLY.match(error.text)
    if early and early["command"] == error.command:
        start, end = early.span("command")
        text = f"{error.text[:start]}{command}{error.text[end:]}"
        return _as_qemu(text, error.error_class, mode)
    if error.text == _NOT_FOUND.format(error.command) and commands is not None and command not in commands:
        return _as_qemu(_NOT_FOUND.format(command), COMMAND_NOT_FOUND, mode)
    return None


def _as_qemu(text: str, error_class: str, mode: Mode) -> Verdict:
    problem = Problem(text, "QEMU itself refuses it now", error_class=error_class, as_qemu=True)
    return Verdict((Finding("unverified", mode, problem),))
