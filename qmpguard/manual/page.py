"""The manual page qmpguard(1), written with the macros of man(7).

The texts of this module describe the whole program; everything about single commands comes from the parser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from qmpguard.policy.rules import table
from qmpguard.settings.options import CONFIG, OPTIONS
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qmpguard.manual.tree import Subcommand

Rows: TypeAlias = "Iterable[tuple[str, str]]"

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
    ("143", "A guard received a second signal before it had ended."),
    ("exec", "QEMU's own exit status, or 128 and the number of the signal that ended it."),
)
_SIGNALS = (
    ("SIGTERM, SIGINT", "Accept no more requests, wait up to 5 seconds for outstanding replies, and exit."),
    ("SIGHUP", "Reload the configuration. If the new one is invalid, the old one stays in force."),
    ("SIGUSR1", "Reopen the audit and the traffic file, after they were moved away."),
)
_FILES = (
    ("/etc/qmpguard/NAME.env", "Environment variables of qmpguard@NAME.service, one per line."),
    ("/etc/qmpguard/qmpguard.toml", "The configuration of qmpguard.service; the example qmpguard.toml is complete."),
    ("/run/qmpguard/NAME.sock", "The socket of qmpguard@NAME.socket, where clients connect."),
    (
        "PATH.guard/qemu, PATH.qemu.lock",
        "With --takeover PATH: QEMU's socket in the guard's directory, and the lock that keeps other guards away.",
    ),
    (
        "$RUNTIME_DIRECTORY/qmpguard-console.sock, $XDG_RUNTIME_DIR/qmpguard-console-PID.sock",
        "The sockets by which override and status find a guard; for root also below /run.",
    ),
)
#: environment variables that do not stand for an option
_VARIABLES = (
    ("QMPGUARD_ADMIN, QMPGUARD_ADMIN_TOKEN_FILE", "The interface that status, tail and healthcheck query too."),
    ("QMPGUARD_TRACE", "If set, an internal error of qmpguard is shown with its traceback."),
    ("LISTEN_FDS, NOTIFY_SOCKET, WATCHDOG_USEC", "Set by systemd: sockets, readiness and watchdog of a service."),
    ("OTEL_*", "With --otel: OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT."),
)
#: a command line, and what it is for; a test reads each with the parser
EXAMPLES = (
    ("qmpguard run --qemu /run/vm/qemu.sock --listen /run/vm/qmp.sock", "Guard a QEMU, for any number of clients."),
    ("qmpguard run --takeover /run/vm/qmp.sock", "The same, for tools that insist on QEMU's own path."),
    (
        "qmpguard exec --listen /run/vm/qmp.sock -- qemu-system-x86_64 -nodefaults",
        "Start a QEMU that has no other monitor.",
    ),
    ("qmpguard check /run/vm/qmp.sock", "See which migrations of a live VM would be refused now."),
    (
        """qmpguard explain --machine /run/vm/qmp.sock '{"execute": "migrate", "arguments": {"uri": "tcp:host:1"}}'""",
        "Judge one command without sending it.",
    ),
    ("qmpguard override --rule vfio-postcopy --for 10m --reason 'TICKET-1'", "Let a rule warn for ten minutes."),
    ("qmpguard config check /etc/qmpguard/qmpguard.toml", "See whether a configuration can be used."),
)


def page(top: Subcommand) -> str:
    """Return the manual page."""
    return "\n".join([*_lines(top), ""])


def _lines(top: Subcommand) -> Iterator[str]:
    yield '.\\" Made by `make docs` from the parser of the command line: change the parser, not this file.'
    yield f'.TH QMPGUARD 1 "" "qmpguard {_text(__version__)}" "User Commands"'
    yield ".ad l"  # its longest words are paths and commands, which cannot be broken
    yield ".SH NAME"
    yield f"{top.name} \\- {_text(top.description[:1].lower() + top.description[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    for words, command in _leaves(top):
        yield from (f".B {_text(' '.join(words))}", *_usage(command), ".br")
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
    yield ".BR run ,"
    yield ".B exec"
    yield "and"
    yield ".B config show"
    yield "can also be set by an environment variable. An option on the command line takes precedence."
    for option in (CONFIG, *OPTIONS):
        yield from (".TP", f"\\fB{_text(option.variable)}\\fR", f"\\fB{_text(f'--{option.flag}')}\\fR")
    yield from _rows(_VARIABLES)
    yield from _section("SIGNALS", _SIGNALS)
    yield from _section("EXIT STATUS", _EXIT)
    yield from _section("FILES", _FILES)
    yield from _section("EXAMPLES", EXAMPLES)
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


def _usage(command: Subcommand) -> Iterator[str]:
    """Yield how a command is called: what it needs, its options, and what follows them."""
    for option in command.options:
        if not option.optional:
            yield from (f".B {_text(option.long)}", f".I {_text(option.metavar)}")
    yield ".RI [ options ]"
    for argument in command.positionals:
        if argument.rest:
            yield from (".B \\-\\-", f".I {_text(argument.metavar)}", ".RI [ argument\\ ... ]")
        else:
            yield f".RI [ {_text(argument.metavar)} ]" if argument.optional else f".I {_text(argument.metavar)}"


def _arguments(command: Subcommand) -> Iterator[str]:
    for argument in command.arguments:
        flags = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in argument.flags)
        value = f"\\fI{_text(argument.metavar)}\\fR" if argument.metavar else ""
        yield from (".TP", f"{flags} {value}".strip(), _text(argument.help))


def _section(title: str, rows: Rows) -> Iterator[str]:
    yield f".SH {title}"
    yield from _rows(rows)


def _rows(rows: Rows) -> Iterator[str]:
    for term, what in rows:
        yield from (".TP", f"\\fB{_text(term)}\\fR", _text(what))


def _text(text: str) -> str:
    """Escape a text for roff (man-pages(7): a hyphen that may be copied is escaped)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "")
    return f"\\&{escaped}" if escaped.startswith((".", "\\(aq")) else escaped
