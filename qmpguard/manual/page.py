"""The manual page qmpguard(1), written with the macros of man(7).

The texts of this module describe the whole program; everything about single commands comes from the parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.rules import table
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpguard.manual.tree import Argument, Subcommand

_EXIT = (
    ("0", "Success."),
    ("1", "A query command answers that something is refused or not ready."),
    ("2", "The command line, the environment or an address is invalid."),
    ("69", "A socket does not exist, or nothing answers there."),
    ("70", "An internal error of qmpguard. With QMPGUARD_TRACE=1 a command prints the traceback."),
    ("74", "Standard output cannot be written, for example because the disk is full."),
    ("78", "The configuration is invalid."),
    ("130", "The command was interrupted (SIGINT)."),
    ("141", "The pipe on standard output was closed."),
)
_SIGNALS = (
    ("SIGTERM, SIGINT", "Accept no more requests, wait up to 5 seconds for outstanding replies, and exit."),
    ("SIGHUP", "Reload the configuration. If the new one is invalid, the old one stays in force."),
)
_FILES = (
    ("/etc/qmpguard/NAME.env", "Environment variables of qmpguard@NAME.service, one per line."),
    ("/etc/qmpguard/qmpguard.toml", "The configuration of qmpguard.service."),
    ("/run/qmpguard/NAME.sock", "The socket of qmpguard@NAME.socket, where clients connect."),
)


def page(top: Subcommand) -> str:
    """Return the manual page."""
    return "\n".join([*_lines(top), ""])


def _lines(top: Subcommand) -> Iterator[str]:
    yield '.\\" Made by `make docs` from the parser of the command line: change the parser, not this file.'
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
    yield "can also be set by the environment variable that its description names. An option on the command line"
    yield "takes precedence."
    yield from _section("SIGNALS", _SIGNALS)
    yield from _section("EXIT STATUS", _EXIT)
    yield from _section("FILES", _FILES)
    yield ".SH SEE ALSO"
    yield ".BR qemu (1),"
    yield ".BR systemd.socket (5)"


def _leaves(command: Subcommand, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Subcommand]]:
    """Yield the commands without subcommands, each with its full name."""
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
    """Escape a text for roff (man-pages(7): a hyphen that may be copied is escaped)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "")
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
