"""From recordings or audit files: what profile strict would have refused, and the smallest policy that lets it pass.

A recording is judged again with everything on and nothing refused. An audit file only tells what was judged then: its
lines count with the rules that they name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from qmpguard.errors import UsageError
from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.observer import RULE as OBSERVER
from qmpguard.policy.rules import table
from qmpguard.recording.lines import printable
from qmpguard.recording.replay import replay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qmpguard.policy.policy import Policy

#: places of each rule that a comment names
MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Hit:
    """A command that a rule would refuse: its place, and the command for people."""

    place: str
    command: str
    rule: str


@dataclass(slots=True)
class Lessons:
    """What was learned. ``judged`` commands were looked at; ``unjudged`` could not be judged, each with its reason."""

    hits: dict[str, list[Hit]] = field(default_factory=dict)
    judged: int = 0
    unjudged: dict[str, int] = field(default_factory=dict)

    def take(self, hit: Hit) -> None:
        """Take one hit."""
        self.hits.setdefault(hit.rule, []).append(hit)


def learn(files: Iterable[tuple[str, Iterable[str]]]) -> Lessons:
    """Return what files teach, each given with its name and its lines. Raises `UsageError` where one is of no kind."""
    lessons = Lessons()
    for name, lines in files:
        texts = iter(lines)
        first = next((text for text in texts if text.strip()), "")
        again = _chain(first, texts)
        if '"recording"' in first:
            _of_recording(lessons, name, again)
        else:
            _of_audit(lessons, name, again)
    return lessons


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _strict(policy: Policy) -> Policy:
    return replace(policy, profile=Profile.STRICT, mode=Mode.ENFORCE, rules={})


def _of_recording(lessons: Lessons, name: str, texts: Iterable[str]) -> None:
    for one in replay(texts, name, _strict):
        if one.reason:
            lessons.unjudged[one.reason] = lessons.unjudged.get(one.reason, 0) + 1
            continue
        lessons.judged += 1
        for finding in one.verdict.findings if one.verdict is not None else ():
            if finding.mode is Mode.ENFORCE:
                lessons.take(Hit(f"{name}:{one.number}", one.line.command, finding.rule))


def _of_audit(lessons: Lessons, name: str, texts: Iterable[str]) -> None:
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text) if text.strip() else {"kind": ""}
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name}:{number}: this is neither a recording nor an audit file: {error}") from error
        if not isinstance(line, dict) or "kind" not in line:
            raise UsageError(f"{name}:{number}: this is neither a recording nor an audit file")
        if line["kind"] == "decision":
            lessons.judged += 1
            for rule in _rules_of(line):
                lessons.take(Hit(f"{name}:{number}", str(line.get("command")), rule))


def _rules_of(decision: Mapping[str, object]) -> Iterator[str]:
    others = decision.get("others", [])
    for found in (decision, *(others if isinstance(others, list) else ())):
        if isinstance(found, Mapping) and isinstance(rule := found.get("rule"), str):
            yield rule


def as_toml(lessons: Lessons) -> str:
    """Return the smallest policy that lets all of it pass, with the commands that need each of its lines."""
    rows = {rule: (standard, strict) for rule, standard, strict, _ in table()}
    found = {rule: hits for rule, hits in sorted(lessons.hits.items()) if rule in rows}
    needed = {rule: hits for rule, hits in found.items() if rows[rule][0] != "enforce" and rows[rule][1] == "enforce"}
    harmful = {rule: hits for rule, hits in found.items() if rows[rule][0] == "enforce"}
    lines = [*_head(lessons), "[policy]", 'profile = "strict"']
    if needed:
        lines += ["", "[policy.rules]"]
    for rule, hits in needed.items():
        lines += [f"# {_places(hits)}", f'{rule} = "warn"']
    if harmful:
        lines += ["", "# Profile standard refuses these too: they harm the VM. They are left out, and stay refused."]
    for rule, hits in harmful.items():
        lines += [f"# {_places(hits)}", f'#rules.{rule} = "warn"']
    if OBSERVER in lessons.hits:
        lines += ["", '# These commands need a socket of operators (role = "operator"):']
        lines += [f"# {_places(lessons.hits[OBSERVER])}"]
    return "\n".join(lines) + "\n"


def _head(lessons: Lessons) -> Iterator[str]:
    refused = len({hit.place for hits in lessons.hits.values() for hit in hits})
    yield f"# Of {lessons.judged} judged commands, profile strict refuses {refused}. With this policy it lets pass what"
    yield "# standard lets pass: a rule in mode warn logs only. Read what each line lets through before you use it."
    for reason, count in lessons.unjudged.items():
        yield f"# Not judged: {count} commands, since {printable(reason)}."


def _places(hits: list[Hit]) -> str:
    # a client has chosen the command: a line's end in it would begin a line of the policy
    named = ", ".join(f"{printable(hit.command)} ({printable(hit.place)})" for hit in hits[:MAX_NAMED])
    return f"{named}, and {len(hits) - MAX_NAMED} more" if len(hits) > MAX_NAMED else named
