"""The command line: the table of commands, exit codes, and error messages."""

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
from qmpguard.logs.descriptors import hold_standard_descriptors, print_error
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _typeshed import SupportsWrite

#: in the order of the help; each is a module of `qmpguard.commands`
COMMANDS = (
    "run", "exec", "check", "explain", "override", "status", "tail", "healthcheck", "config", "rules",
    "record", "replay", "learn", "simulate", "demo",
)  # fmt: skip
#: errors of an output that cannot be written
_OUTPUT = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class _Parser(argparse.ArgumentParser):
    """A parser that raises where its help cannot be printed; argparse ignores that error."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if message and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)


class Command(Protocol):
    """A module of `qmpguard.commands`."""

    SUMMARY: str
    DESCRIPTION: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's options."""
        ...

    def execute(self, arguments: argparse.Namespace) -> int:
        """Run the command, and return the exit code. May raise `QmpguardError`."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 success, 1 refusals, 2 usage, 69 unavailable, 70 internal error, 74 the output cannot be written, 78
    configuration, 130 interrupted, 141 broken pipe. Each error is one line on standard error. Raises `SystemExit` after
    help and for a wrong usage.
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
    except Exception as error:  # noqa: BLE001 -- any error is one line, never a traceback
        code = _failed(error)
    return code


def provide_streams() -> None:
    """Open /dev/null for each closed standard stream, so that no socket gets its number.

    Characters that standard output cannot encode are printed as escapes.
    """
    hold_standard_descriptors()
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 -- for the rest of the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 -- likewise
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print an error on standard error in one line. Never raises."""
    line = " ".join(text.splitlines())
    print_error(f"qmpguard: {line.encode(errors='backslashreplace').decode()}")


def _execute(words: Sequence[str]) -> int:
    arguments = parser(words[:1] if words and words[0] in COMMANDS else COMMANDS).parse_args(words)
    code: int = arguments.execute(arguments)
    return code


def _flushed() -> int:
    """Flush standard output: return the exit code where that fails, else raise the exception that is being handled."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _failed(error)
    raise  # noqa: PLE0704 -- the caller's exception


def _failed(error: Exception) -> int:
    """Print an error, and return its exit code."""
    output = _of_output(error)
    if output is None:
        _internal(error)
        return 70
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # discard the buffered output
    if isinstance(output, BrokenPipeError):  # as behind `head`
        return 141
    say(f"cannot write to standard output: {output.strerror}")
    return 74


def _of_output(error: BaseException) -> OSError | None:
    """Return the error of an output that cannot be written; None for any other error."""
    if isinstance(error, BaseExceptionGroup):
        found = [_of_output(inner) for inner in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, OSError) and error.errno in _OUTPUT else None


def _internal(error: Exception) -> None:
    import logging  # imported here, so that a health check loads fast
    import traceback

    if logging.getLogger().handlers:  # a guard logs the trace
        logging.getLogger(__name__).critical("internal error: %r", error, exc_info=error)
        return
    if os.environ.get("QMPGUARD_TRACE"):
        with suppress(OSError):
            traceback.print_exception(error)
    say(f"internal error, please report it: {type(error).__name__}: {error}")


def parser(names: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of all commands, or of some: a health check loads only its own module."""
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
