"""What is wrong with a request: QEMU's refusal of a query, the problem that a rule has found, and the finding of it."""

from __future__ import annotations

from dataclasses import dataclass

from qmpguard.policy.mode import Mode
from qmpguard.wire.client_messages import GENERIC_ERROR

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
