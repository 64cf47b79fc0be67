"""qmpguard(1), in the language of man(7). What is said here and not by the parser holds for all commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.rules import table
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpguard.manual.tree import Argument, Subcommand

_EXIT = (
    ("0", "All is well."),
    ("1", "Something is refused, or is not ready: the answer of a command that asks."),
    ("2", "The command line, the environment or an address cannot be read."),
    ("69", "There is no such socket, or nothing answers there."),
    ("70", "A fault of qmpguard itself. With QMPGUARD_TRACE=1 a command shows where it is."),
    ("74", "Standard output takes no more: the disk is full."),
    ("78", "A configuration cannot be used."),
    ("130", "It was interrupted (SIGINT)."),
    ("141", "Nobody reads the pipe that it prints to."),
)
_SIGNALS = (
    ("SIGTERM, SIGINT", "Take no more requests, wait up to 5 seconds for replies that are under way, and end."),
    ("SIGHUP", "Read the configuration again. What cannot be used changes nothing."),
)
_FILES = (
    ("/etc/qmpguard/NAME.env", "What qmpguard@NAME.service sets: variables, one a line."),
    ("/etc/qmpguard/qmpguard.toml", "What qmpguard.service reads."),
    ("/run/qmpguard/NAME.sock", "Where the clients of qmpguard@NAME.socket connect."),
)


def page(top: Subcommand) -> str:
    """Return the manual page."""
    return "\n".join([*_lines(top), ""])


def _lines(top: Subcommand) -> Iterator[str]:
    yield '.\\" Made by `make docs` from the parser of the command line: change that, not this.'
    yield f'.TH QMPGUARD 1 "" "qmpguard {_text(__version__)}" "User Commands"'
    yield ".SH NAME"
    yield f"{top.name} \\- {_text(top.description[:1].lower() + top.description[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    for words, command in _leaves(top):
        yield from (f".B {_text(' '.join(words))}", *(_usage(a) for a in command.positionals), ".RI [ options ]", ".br")
    yield ".SH DESCRIPTION"
    yield f"{_text(top.description)} It stands between management tools and QEMU's monitor socket, asks QEMU what there"
    yield "is, and refuses every command that would combine them. Everything else passes unchanged."
    yield ".PP"
    yield _text(top.epilog)
    yield ".SH OPTIONS"
    yield from _arguments(top)
    yield ".SH COMMANDS"
    for words, command in _leaves(top):
        yield f".SS {_text(' '.join(words[1:]))}"
        yield _text(command.description)
        yield from _arguments(command)
    yield from _section("RULES", [(rule, f"{does} ({a}; strict: {b})") for rule, a, b, does in table()])
    yield ".SH ENVIRONMENT"
    yield "An option of"
    yield ".B run"
    yield "can come from the environment: its variable stands behind it. A flag wins."
    yield from _section("SIGNALS", _SIGNALS)
    yield from _section("EXIT STATUS", _EXIT)
    yield from _section("FILES", _FILES)
    yield ".SH SEE ALSO"
    yield ".BR qemu (1),"
    yield ".BR systemd.socket (5)"


def _leaves(command: Subcommand, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Subcommand]]:
    """Yield the commands that do something, with the words that call them."""
    words = (*words, command.name)
    if not command.commands:
        yield words, command
    for inner in command.commands:
        yield from _leaves(inner, words)


def _usage(argument: Argument) -> str:
    return f".RI [ {_text(argument.metavar)} ]" if argument.optional else f".I {_text(argument.metavar)}"


def _arguments(command: Subcommand) -> Iterator[str]:
    for argument in command.arguments:
        flags = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in argument.flags)
        value = f"\\fI{_text(argument.metavar)}\\fR" if argument.metavar else ""
        yield from (".TP", f"{flags} {value}".strip(), _text(argument.help))


def _section(title: str, rows: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> Iterator[str]:
    yield f".SH {title}"
    for term, what in rows:
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(what))


def _text(text: str) -> str:
    """Return words as roff takes them literally (man-pages(7): a hyphen that is to be copied is escaped)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "")
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
