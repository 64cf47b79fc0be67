"""The command line: the table of commands, and what an error looks like to the person who typed it."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from qmpguard.errors import QmpguardError
from qmpguard.ledger.descriptors import complain, hold_standard_descriptors
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

#: in the order in which help shows them; each is a module of `qmpguard.commands`
COMMANDS = (
    "run", "exec", "check", "explain", "override", "status", "tail", "healthcheck", "config", "rules", "demo",
)  # fmt: skip


class Command(Protocol):
    """What a module of `qmpguard.commands` has."""

    SUMMARY: str
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's options."""
        ...

    def execute(self, arguments: argparse.Namespace) -> int:
        """Do what it is for, and return the exit code. May raise `QmpguardError`."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 good, 1 refusals, 2 usage, 69 nothing answers, 78 configuration."""
    hold_standard_descriptors()
    words = sys.argv[1:] if argv is None else argv
    arguments = parser(words[:1] if words and words[0] in COMMANDS else COMMANDS).parse_args(words)
    code = 0
    try:
        code = arguments.execute(arguments)
    except QmpguardError as error:
        complain(f"qmpguard: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except (BrokenPipeError, ExceptionGroup) as error:
        if isinstance(error, ExceptionGroup) and error.split(BrokenPipeError)[1]:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on, as behind `head`
        code = 141
    return code


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of some commands: a health check loads nothing else."""
    top = argparse.ArgumentParser(
        prog="qmpguard",
        description="A QMP proxy that keeps VFIO devices away from postcopy migration and background snapshot.",
        epilog="An address is unix:/path or a bare path, tcp:host:port, or fd:N.",
    )
    top.add_argument("--version", action="version", version=f"qmpguard {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        command = cast("Command", import_module(f"qmpguard.commands.{name.replace('-', '_')}"))
        sub = commands.add_parser(name, help=command.SUMMARY, description=command.DESCRIPTION)
        command.add_arguments(sub)
        sub.set_defaults(execute=command.execute)
    return top
