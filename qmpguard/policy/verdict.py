"""Verdicts: what the rules found, and whether the request may pass."""

from __future__ import annotations

from dataclasses import dataclass

from qmpguard.policy.native import UNTOLD, Native
from qmpguard.policy.policy import Mode

#: characters of one text in a verdict. What a client names may have megabytes, and verdicts stay on record.
MAX_TEXT = 1000


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."


@dataclass(frozen=True, slots=True)
class Problem:
    """What one rule says is wrong with a machine.

    ``refusal`` is QEMU's own sentence where it has one; ``devices`` and ``capability`` name the two halves of
    the combination, ``fix`` what the caller can do. What is ``advisory`` never refuses.
    """

    refusal: str
    fix: str
    devices: tuple[str, ...] = ()
    capability: str | None = None
    advisory: bool = False

    def __post_init__(self) -> None:
        """Cut what is too long to be kept and shown."""
        object.__setattr__(self, "refusal", _cut(self.refusal))
        object.__setattr__(self, "fix", _cut(self.fix))
        object.__setattr__(self, "devices", tuple(map(_cut, self.devices)))


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem together with the rule that found it and the mode that the rule is in."""

    rule: str
    mode: Mode
    problem: Problem

    def text(self, ref: str = "") -> str:
        """Return the sentence that goes to the client: QEMU's own first, then ours, with the decision's reference."""
        problem = self.problem
        parts = [f"rule {self.rule}"]
        if problem.devices:
            noun = "device" if len(problem.devices) == 1 else "devices"
            parts.append(f"{noun} {', '.join(repr(d) for d in problem.devices)}")
        if problem.capability:
            parts.append(f"capability {problem.capability} is on")
        reference = f"; ref {ref}" if ref else ""
        return f"{problem.refusal} (qmpguard: {', '.join(parts)}; {problem.fix}{reference})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass. Every failing rule that is not off is among the findings.

    ``native`` is what QEMU itself would do about the finding that weighs most.
    """

    findings: tuple[Finding, ...] = ()
    native: Native = UNTOLD

    @property
    def refusal(self) -> Finding | None:
        """The finding that refuses the request, None where it may pass."""
        return next((f for f in self.findings if f.mode is Mode.ENFORCE), None)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What was found but does not refuse."""
        return tuple(f for f in self.findings if f.mode is Mode.WARN)


def unverified(reason: str, mode: Mode) -> Verdict:
    """Return the verdict on what could not be read or verified: fail closed, unless the mode is ``warn``."""
    problem = Problem(
        f"This request could not be verified: {reason}",
        "nothing was sent to QEMU; correct the request, or try again when QEMU answers",
    )
    return Verdict((Finding("unverified", mode, problem),))
