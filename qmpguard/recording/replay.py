"""A recording judged again, line by line: what the guard says now beside what it said then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from qmpguard.errors import UsageError
from qmpguard.policy.machine_json import memory_from_json, policy_from_json
from qmpguard.recording.judge import NotJudged, RecordedVm, has_hidden, said
from qmpguard.recording.lines import Exchange, LinesLost, PolicyInUse, RecordingBegins, Remembered, Said
from qmpguard.recording.reader import read_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from qmpguard.policy.policy import Policy
    from qmpguard.policy.schema import Schema
    from qmpguard.policy.verdict import Verdict
    from qmpguard.recording.judge import Again
    from qmpguard.recording.lines import Line, Members

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Rejudged:
    """A command of a recording with the verdict of then, and that of now.

    ``guarded``: a guard judged then. ``reason``: why the command was not judged again; empty where it was.
    """

    number: int
    line: Exchange
    guarded: bool
    verdict: Verdict | None = None
    reason: str = ""

    @property
    def then(self) -> Said | None:
        """What the guard said then; None where it did not judge."""
        return self.line.said

    @property
    def now(self) -> Said | None:
        """What it says now; None where it does not judge."""
        return None if self.verdict is None else said(self.verdict)

    @property
    def differs(self) -> bool:
        """Say whether the two verdicts differ. One without findings is the same as none."""
        return self.guarded and not self.reason and _plain(self.then) != _plain(self.now)


def _plain(verdict: Said | None) -> Said:
    return verdict if verdict is not None and verdict.rules else Said("allowed")


def replay(texts: Iterable[str], name: str, choose: Callable[[Policy], Policy]) -> Iterator[Rejudged]:
    """Yield every command that was judged then, or is judged now. ``choose`` makes the policy of the recorded one.

    After a line `lost` nothing is judged, for any VM, until another run of the guard begins.

    Raises `UsageError` where the file is no recording.
    """
    vms: dict[str, RecordedVm] = {}
    schemas: dict[str, Schema] = {}
    has_lost = False
    for number, line in read_lines(texts, name):
        if isinstance(line, RecordingBegins):
            vms.clear()  # another run of the guard
        if isinstance(line, RecordingBegins | LinesLost):
            has_lost = isinstance(line, LinesLost)
            continue
        vm = vms.setdefault(line.vm, RecordedVm(choose, schemas))
        vm.has_lost = has_lost
        if isinstance(line, PolicyInUse):
            vm.adopt(_read(policy_from_json, line.policy, "policy", name, number), line.own)
        if isinstance(line, Remembered):
            vm.recall(_read(memory_from_json, line.memory, "memory", name, number))
        if isinstance(line, Exchange):
            one = _judged(number, line, vm)
            if one.reason or one.then is not None or one.verdict is not None:
                yield one
        vm.happened(line)


def _judged(number: int, line: Exchange, vm: RecordedVm) -> Rejudged:
    again: Again = vm.judge(line)
    if isinstance(again, NotJudged):
        return Rejudged(number, line, vm.guarded, reason=again.reason)
    one = Rejudged(number, line, vm.guarded, again)
    if one.differs and has_hidden(line.arguments):
        return Rejudged(number, line, vm.guarded, reason="its arguments are hidden in the recording")
    return one


def _read(reader: Callable[[object], _T], value: Members, what: str, name: str, number: int) -> _T:
    try:
        return reader(value)
    except ValueError as error:
        raise UsageError(f"{name}:{number}: this {what} cannot be read: {error}") from error


def lines_of(texts: Iterable[str], name: str) -> Iterator[Line]:
    """Yield the lines of a recording. Raises `UsageError` where it is none."""
    return (line for _, line in read_lines(texts, name))
