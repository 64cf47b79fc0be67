"""The command line: the table of commands, and what an error looks like to the person who typed it."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Protocol, cast

from qmpguard.errors import QmpguardError
from qmpguard.logs.descriptors import complain, hold_standard_descriptors
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import SupportsWrite

#: in the order in which help shows them; each is a module of `qmpguard.commands`
COMMANDS = (
    "run", "exec", "check", "explain", "override", "status", "tail", "healthcheck", "config", "rules", "demo",
)  # fmt: skip
#: errors of an output that takes no more
_OUTPUT = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class _Parser(argparse.ArgumentParser):
    """A parser that says so where its help cannot be printed; the standard library's keeps silent."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if message and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


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
    """Run a command and return its exit code.

    0 good, 1 refusals, 2 usage, 69 nothing answers, 70 a fault of our own, 74 the output takes no more, 78
    configuration, 130 interrupted, 141 nobody reads the output. Each error is one line on standard error. Raises
    `SystemExit` after help and for a wrong usage.
    """
    provide_streams()
    try:
        code = _execute(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except SystemExit:
        return _flushed()
    except QmpguardError as error:
        say(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except Exception as error:  # noqa: BLE001 -- a person gets one line, whatever it is
        code = _failed(error)
    return code


def provide_streams() -> None:
    """Open /dev/null for each standard stream that is closed: its number must not become a socket's.

    What an output has no letters for is spelled as an escape.
    """
    hold_standard_descriptors()
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 -- for the rest of the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 -- likewise
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Write an error on standard error in one line, if that takes it."""
    line = " ".join(text.splitlines())
    complain(f"qmpguard: {line.encode(errors='backslashreplace').decode()}")


def _execute(words: Sequence[str]) -> int:
    arguments = parser(words[:1] if words and words[0] in COMMANDS else COMMANDS).parse_args(words)
    code: int = arguments.execute(arguments)
    return code


def _flushed() -> int:
    """Return the exit code where the output fails; raise what is being handled where it does not."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _failed(error)
    raise  # noqa: PLE0704 -- the caller's


def _failed(error: Exception) -> int:
    """Say what has failed, and return the exit code."""
    output = _of_output(error)
    if output is None:
        _internal(error)
        return 70
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered is for nobody
    if isinstance(output, BrokenPipeError):  # as behind `head`
        return 141
    say(f"cannot write to standard output: {output.strerror}")
    return 74


def _of_output(error: BaseException) -> OSError | None:
    """Return the error of an output that takes no more; None for any other error."""
    if isinstance(error, BaseExceptionGroup):
        found = [_of_output(inner) for inner in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, OSError) and error.errno in _OUTPUT else None


def _internal(error: Exception) -> None:
    import logging  # a health check loads nothing that it can do without
    import traceback

    if logging.getLogger().handlers:  # a guard: its log has all
        logging.getLogger(__name__).critical("internal error: %r", error, exc_info=error)
        return
    if os.environ.get("QMPGUARD_TRACE"):
        with suppress(OSError):
            traceback.print_exception(error)
    say(f"internal error, please report it: {type(error).__name__}: {error}")


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of some commands: a health check loads nothing else."""
    top = _Parser(
        prog="qmpguard",
        description="A QMP proxy that keeps VFIO devices away from postcopy migration and background snapshot.",
        epilog="An address is unix:/path or a bare path, tcp:host:port, or fd:N for an open descriptor. Where clients "
        "connect, fd:NAME is a socket that systemd passes, by its FileDescriptorName=.",
    )
    top.add_argument("--version", action="version", version=f"qmpguard {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        command = cast("Command", import_module(f"qmpguard.commands.{name.replace('-', '_')}"))
        sub = commands.add_parser(name, help=command.SUMMARY, description=command.DESCRIPTION)
        command.add_arguments(sub)
        sub.set_defaults(execute=command.execute)
    return top
