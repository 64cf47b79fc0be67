"""``qmpguard learn``: the smallest policy that lets recorded work pass in profile strict."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

SUMMARY = "find the smallest policy in profile strict that lets recorded work pass"
DESCRIPTION = (
    "Read recordings and audit files, find what profile strict would have refused, and print the smallest policy that "
    "lets it pass, as TOML with the lines that need each rule. What profile standard refuses too stays refused. A "
    "recording is judged again; an audit file only tells of the rules that were on then. Exit code 0: strict refuses "
    "nothing of it; 1: something is refused; 2: FILE is neither a recording nor an audit file."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="a recording or an audit file")


def execute(arguments: argparse.Namespace) -> int:
    """Print the policy."""
    from qmpguard.commands.replay import opened
    from qmpguard.recording.learn import as_toml, learn
    from qmpguard.recording.reader import lines_of_file

    with ExitStack() as stack:
        lessons = learn([(name, lines_of_file(stack.enter_context(opened(name)), name)) for name in arguments.files])
    print(as_toml(lessons), end="")
    return 1 if lessons.hits else 0
