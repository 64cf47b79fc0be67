"""``qmpguard replay``: judge a recording again, or play it to a QEMU."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qmpguard.commands.policy_options import add_policy_arguments, configured_policy, tell, with_options
from qmpguard.errors import UsageError
from qmpguard.policy.policy import Policy
from qmpguard.recording.lines import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from qmpguard.recording.replay import Rejudged
    from qmpguard.remote.playing import Played

#: characters of a difference that are shown
MAX_TEXT = 4096

SUMMARY = "judge a recording again, and show where the verdicts differ"
DESCRIPTION = (
    "Judge each command of a recording again, on the machine that QEMU was then, and show where the verdict is not the "
    "one of then. The policy is the recorded one, unless an option or --config says another. With --against, send the "
    "recorded commands to a QEMU, and show where its replies differ; a command that the policy refuses is not sent. "
    "Exit code 0: no difference; 1: a difference; 2: FILE is no recording; 69: no QEMU answers."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a recording of `run --record` or `record`")
    parser.add_argument("--all", action="store_true", help="show every verdict, not only those that differ")
    parser.add_argument("--against", metavar="ADDR", help="send the commands to this QEMU: THIS CHANGES ITS VM")
    parser.add_argument("--only", metavar="NAME", help="with --against: the VM of the recording")
    add_policy_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Replay the recordings and print the differences."""
    chosen = configured_policy(arguments)

    def choose(recorded: Policy) -> Policy:
        return with_options(arguments, chosen or recorded)

    choose(Policy())  # an option that is wrong is said, whatever the files hold
    if arguments.against is not None:
        return _play(arguments, choose)
    if arguments.only is not None:
        raise UsageError("--only NAME is the VM that --against ADDR plays")
    found = [(name, one) for name in arguments.files for one in _judged(name, choose)]
    print(json.dumps(_json(found), indent=2) if arguments.json else _text(found, everything=arguments.all))
    return 1 if any(one.differs for _, one in found) else 0


def _judged(name: str, choose: Callable[[Policy], Policy]) -> Iterator[Rejudged]:
    from qmpguard.recording.reader import lines_of_file
    from qmpguard.recording.replay import replay

    with opened(name) as file:
        yield from replay(lines_of_file(file, name), name, choose)


@contextmanager
def opened(name: str) -> Iterator[TextIO]:
    """Open a file for reading. Raises `UsageError` where it cannot be read, also later or as text."""
    try:
        with open(name, encoding="utf-8") as file:  # noqa: PTH123 -- the name is shown as it was given
            yield file
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: this is no text") from error


def _text(found: list[tuple[str, Rejudged]], *, everything: bool) -> str:
    lines = [_line(name, one) for name, one in found if everything or one.differs or one.reason or _is_news(one)]
    differing, left = sum(one.differs for _, one in found), sum(bool(one.reason) for _, one in found)
    guarded = any(one.guarded for _, one in found)
    return "\n".join(
        [
            *lines,
            f"{len(found) - left} commands judged again, {left} not"
            + (f"; verdicts that differ: {differing}" if guarded else "; no guard judged them then"),
        ]
    )


def _is_news(one: Rejudged) -> bool:
    """Say whether a verdict is worth a line though there is none to compare it with."""
    return not one.guarded and one.now is not None and bool(one.now.rules)


def _line(name: str, one: Rejudged) -> str:
    head = f"{name}:{one.number}: vm={printable(one.line.vm)} {printable(one.line.command)}:"
    if one.reason:
        return f"{head} not judged again: {one.reason}"
    if one.differs:
        return f"{head} then {one.then or 'allowed'}, now {one.now or 'allowed'}"
    return f"{head} {one.now or 'allowed'}"


def _json(found: list[tuple[str, Rejudged]]) -> dict[str, object]:
    return {
        "commands": [
            {
                "file": name,
                "line": one.number,
                "vm": one.line.vm,
                "command": one.line.command,
                "then": _said(one, one.then),
                "now": _said(one, one.now),
                "differs": one.differs,
                "not_judged": one.reason or None,
            }
            for name, one in found
        ],
        "differences": sum(one.differs for _, one in found),
    }


def _said(one: Rejudged, said: object) -> dict[str, object] | None:
    from qmpguard.recording.lines import Said

    return {"verdict": said.verdict, "rules": dict(said.rules)} if isinstance(said, Said) else None


def _play(arguments: argparse.Namespace, choose: Callable[[Policy], Policy]) -> int:
    from qmpguard.recording.reader import lines_of_file
    from qmpguard.remote.playing import play

    if len(arguments.files) != 1:
        raise UsageError("--against ADDR plays one FILE")
    (name,) = arguments.files
    with opened(name) as file:
        texts = lines_of_file(file, name)
        played = asyncio.run(play(arguments.against, texts, name, choose, only=arguments.only, tell=tell))
    if arguments.json:
        print(json.dumps([_played_json(one) for one in played], indent=2))
    else:
        print(_played_text(name, played, everything=arguments.all))
    return 1 if any(one.difference for one in played) else 0


def _played_text(name: str, played: list[Played], *, everything: bool) -> str:
    said = [(one, (one.skipped and f"not sent: {one.skipped}") or one.difference or "the same reply") for one in played]
    lines = [
        f"{name}:{one.number}: {printable(one.line.command)}: {printable(text, MAX_TEXT)}"
        for one, text in said
        if everything or one.skipped or one.difference
    ]
    skipped, different = sum(bool(one.skipped) for one in played), sum(bool(one.difference) for one in played)
    return "\n".join(
        [*lines, f"{len(played) - skipped} commands sent, {skipped} not; replies that differ: {different}"]
    )


def _played_json(one: Played) -> dict[str, object]:
    return {
        "line": one.number,
        "command": one.line.command,
        "not_sent": one.skipped or None,
        "difference": one.difference or None,
    }
