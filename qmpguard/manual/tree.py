"""The command line as a tree of plain values, read from argparse."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """An option, or a positional argument, which has no flags. ``metavar`` is empty if it takes no value.

    ``choices`` are values that a shell can offer. ``rest``: it takes all arguments that follow.
    """

    flags: tuple[str, ...]
    metavar: str
    help: str
    choices: tuple[str, ...] = ()
    optional: bool = True
    rest: bool = False

    @property
    def long(self) -> str:
        """The longest flag."""
        return max(self.flags, key=len, default="")


@dataclass(frozen=True, slots=True)
class Subcommand:
    """A command with its arguments and subcommands. ``name`` is its last word."""

    name: str
    summary: str
    description: str
    epilog: str
    arguments: tuple[Argument, ...]
    commands: tuple[Subcommand, ...]

    @property
    def options(self) -> tuple[Argument, ...]:
        """The arguments that have flags."""
        return tuple(a for a in self.arguments if a.flags)

    @property
    def positionals(self) -> tuple[Argument, ...]:
        """The arguments without flags."""
        return tuple(a for a in self.arguments if not a.flags)


def tree(
    parser: argparse.ArgumentParser,
    name: str = "qmpguard",
    summary: str = "",
    offers: Mapping[str, tuple[str, ...]] | None = None,
) -> Subcommand:
    """Return the commands and arguments of a parser; ``offers``: values of options that accept any text."""
    offers = offers or {}
    arguments: list[Argument] = []
    commands: list[Subcommand] = []
    for action in parser._actions:  # noqa: SLF001 -- argparse has no public interface for this
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 -- as above
            summaries = {pseudo.dest: pseudo.help or "" for pseudo in action._choices_actions}  # noqa: SLF001 -- as above
            commands += [tree(inner, name, summaries.get(name, ""), offers) for name, inner in action.choices.items()]
        elif action.help != argparse.SUPPRESS:
            arguments.append(_argument(action, offers))
    return Subcommand(name, summary, parser.description or "", parser.epilog or "", tuple(arguments), tuple(commands))


def _argument(action: argparse.Action, offers: Mapping[str, tuple[str, ...]]) -> Argument:
    metavar = action.metavar or action.dest.upper()
    assert isinstance(metavar, str)
    choices = tuple(map(str, action.choices or ()))
    offered = next((offers[flag] for flag in action.option_strings if flag in offers), ())
    return Argument(
        tuple(action.option_strings),
        "" if action.nargs == 0 else "|".join(choices) or metavar,
        (action.help or "").replace("%%", "%").replace("%(default)s", str(action.default)),
        choices or offered,
        optional=not action.required or action.nargs in ("?", "*"),
        rest=action.nargs == argparse.REMAINDER,
    )
