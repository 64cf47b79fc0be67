"""The command line as a tree of plain values, read from argparse. What is written about it is elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """An option with its flags, or a positional argument without any. ``metavar`` is empty where it takes no value.

    ``choices`` are values that a shell can offer; ``rest``: it takes all that follows.
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
    """A command with its arguments, and the commands below it. ``name`` is the last word."""

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
        """The arguments that have none."""
        return tuple(a for a in self.arguments if not a.flags)


def tree(
    parser: argparse.ArgumentParser,
    name: str = "qmpguard",
    summary: str = "",
    offers: Mapping[str, tuple[str, ...]] | None = None,
) -> Subcommand:
    """Return what a parser knows; ``offers``: values of flags that it takes as any text."""
    offers = offers or {}
    arguments: list[Argument] = []
    commands: list[Subcommand] = []
    for action in parser._actions:  # noqa: SLF001 -- argparse has no door to what it knows, and this has not changed
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 -- as above
            said = {pseudo.dest: pseudo.help or "" for pseudo in action._choices_actions}  # noqa: SLF001 -- as above
            commands += [tree(inner, name, said.get(name, ""), offers) for name, inner in action.choices.items()]
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
