"""Verdicts: the findings of the rules, and whether the request may pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qmpguard.policy.mode import Mode
from qmpguard.policy.problem import Finding, Problem, Refusal
from qmpguard.policy.qemu_check import UNKNOWN_CHECK, QemuCheck
from qmpguard.wire.client_messages import COMMAND_NOT_FOUND


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
