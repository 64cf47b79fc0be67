"""The options of `run`: the flag, the environment variable and the setting of each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.config import DRIFT_INTERVAL, MAX_CLIENTS, NAME, SOCKET_MODE, SURVEY_TIMEOUT
from qmpguard.errors import UsageError
from qmpguard.settings.table import Item
from qmpguard.wire.framing import MAX_REQUEST

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from qmpguard.errors import QmpguardError
    from qmpguard.settings.toml_lines import Path


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its flag without the dashes, the path of its setting, and its help."""

    flag: str
    path: Path
    metavar: str
    help: str
    bare: str | None = None  # the value of the flag without an argument

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"QMPGUARD_{self.flag.upper().replace('-', '_')}"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add the option to a command's parser."""
        text = f"{self.help} [{self.variable}]"
        if self.bare is None:
            parser.add_argument(f"--{self.flag}", metavar=self.metavar, help=text)
        else:
            parser.add_argument(f"--{self.flag}", metavar=self.metavar, help=text, nargs="?", const=self.bare)


#: characters of a value in an error
MAX_SHOWN = 200

VM: Path = ("vm", 0)
POLICY: Path = ("policy",)
RULES: Path = ("policy", "rules")

#: the configuration file
CONFIG = Option("config", (), "FILE", "a configuration file, with any number of VMs")

OPTIONS = (
    Option("qemu", (*VM, "qemu"), "ADDR", "QEMU's QMP socket"),
    Option(
        "qemu-listen",
        (*VM, "qemu_listen"),
        "ADDR",
        "instead of --qemu: the address where the guard listens and QEMU connects; fd:NAME: a socket from systemd",
    ),
    Option(
        "listen",
        (*VM, "listen"),
        "ADDR",
        "the address where clients connect; fd:NAME: a socket that systemd passes (default: fd:qmp if passed)",
    ),
    Option(
        "takeover",
        (*VM, "takeover"),
        "PATH",
        "move QEMU's socket to PATH.guard/qemu, which only the guard may enter, and listen for clients at PATH",
    ),
    Option(
        "absent",
        (*VM, "absent"),
        "HOW",
        "clients that connect after QEMU has ended: refuse them, as QEMU would, or let them wait (default: refuse)",
    ),
    Option(
        "end-with-qemu",
        ("end_with_qemu",),
        "BOOL",
        "end when QEMU ends; with several VMs, when every QEMU has ended (default: false)",
        bare="true",
    ),
    Option("name", (*VM, "name"), "NAME", f"the VM's name in logs (default: {NAME})"),
    Option(
        "profile", (*POLICY, "profile"), "PROFILE", "standard, or strict: also refuse every known way around the guard"
    ),
    Option("mode", (*POLICY, "mode"), "MODE", "enforce, or warn: log refusals and let the commands pass"),
    Option("rules", RULES, "ID=MODE,...", "modes of single rules: enforce, warn or off; see qmpguard rules"),
    Option("extra-types", (*POLICY, "extra_types"), "TYPE,...", "more QOM types of devices that count as VFIO"),
    Option(
        "allow-failover-primary",
        (*POLICY, "allow_failover_primary"),
        "BOOL",
        "let every failover primary pass whose standby is present, without a warning (default: false)",
    ),
    Option(
        "survey-timeout",
        (*VM, "survey_timeout"),
        "S",
        f"seconds that a verdict may wait for QEMU (default: {SURVEY_TIMEOUT:g})",
    ),
    Option(
        "drift-interval",
        (*VM, "drift_interval"),
        "S",
        f"seconds between two queries for drift; 0: none (default: {DRIFT_INTERVAL:g})",
    ),
    Option(
        "socket-mode", (*VM, "socket_mode"), "MODE", f"permissions of the clients' socket (default: {SOCKET_MODE:04o})"
    ),
    Option("socket-group", (*VM, "socket_group"), "GROUP", "group of the clients' socket"),
    Option("allow-users", (*VM, "allow_users"), "USER,...", "the users that may connect (default: no list)"),
    Option("allow-groups", (*VM, "allow_groups"), "GROUP,...", "the groups that may connect (default: no list)"),
    Option("role", (*VM, "role"), "ROLE", "operator, or observer: clients may only query (default: operator)"),
    Option("max-clients", (*VM, "max_clients"), "N", f"clients at once (default: {MAX_CLIENTS})"),
    Option("max-request", (*VM, "max_request"), "N", f"bytes of a client's request (default: {MAX_REQUEST})"),
    Option("admin", ("admin", "listen"), "ADDR", "the address of the admin interface (default: no admin interface)"),
    Option("admin-token-file", ("admin", "token_file"), "FILE", "a file with the admin interface's token for TCP"),
    Option("admin-hosts", ("admin", "hosts"), "NAME,...", "its host names in browsers, beside localhost"),
    Option("log-level", ("log", "level"), "LEVEL", "debug, info, warning or error (default: info)"),
    Option("log-format", ("log", "format"), "FORMAT", "text, or json: one object a line (default: text)"),
    Option("audit", ("log", "audit"), "FILE", "write every decision to a file, one JSON object a line"),
    Option("traffic", ("log", "traffic"), "FILE", "write every request to a file, without secrets"),
    Option("traffic-exclude", ("log", "traffic_exclude"), "COMMAND,...", "commands that the traffic file leaves out"),
    Option(
        "record",
        ("log", "record"),
        "FILE",
        "record every command with its reply, without secrets, for `qmpguard replay`",
    ),
    Option("otel", ("log", "otel"), "BOOL", "export decisions to OpenTelemetry; needs qmpguard[otel] (default: false)"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command's parser. Each has an environment variable, for containers."""
    for option in (CONFIG, *OPTIONS):
        option.add_to(parser)


class OptionValues:
    """The values of flags and environment variables. ``fallback`` has values for options without either."""

    def __init__(
        self,
        flags: Mapping[str, object],
        environ: Mapping[str, str] = os.environ,
        fallback: Mapping[str, str] | None = None,
    ) -> None:
        self._flags = flags
        self._environ = _without_replaced(flags, environ)
        self._options: dict[Path, Option] = {}
        self.values: dict[str, object] = {}
        self.config = self._text_of(CONFIG)
        for option in OPTIONS:
            text = self._text_of(option)
            if text is not None or (text := (fallback or {}).get(option.flag)) is not None:
                self._set(option, text)

    def item(self, path: Path, value: object) -> Item:
        """Return a value with its flag or variable as its origin."""
        option = self._option(path)
        if self._flag(option) is not None:
            origin, written = f"--{option.flag}", f"--{option.flag} {value}"
        elif option.variable in self._environ:
            origin, written = f"environment {option.variable}", f"{option.variable}={value} in the environment"
        else:
            origin, written = "systemd", f"--{option.flag} {value}"
        if option.path == RULES:
            written = f"{origin} {path[-1]}={value}"
        return Item(value, origin, "", written, UsageError, is_text=True)

    def missing(self, path: Path) -> QmpguardError:
        """Return the error for a missing option."""
        option = next(option for option in OPTIONS if option.path == path)
        return UsageError(f"--{option.flag} {option.metavar} is missing, or {option.variable} in the environment")

    def called(self, path: Path) -> str:
        """Return the flag of a setting, or where its value comes from the environment, its variable."""
        option = next(option for option in (CONFIG, *OPTIONS) if option.path == path)
        from_environment = self._flag(option) is None and option.variable in self._environ
        return option.variable if from_environment else f"--{option.flag}"

    def has(self, path: Path) -> bool:
        """Say whether a flag or variable sets the setting at a path."""
        return path in self._options

    @property
    def vm_option(self) -> str | None:
        """An option about a single VM or a policy, which --config excludes; None where none is given."""
        for path, option in self._options.items():
            if path[0] in ("vm", "policy"):
                return f"--{option.flag}" if self._flag(option) is not None else option.variable
        return None

    def _set(self, option: Option, text: str) -> None:
        if option.path != RULES:
            self._put(option, option.path, text)
            return
        for part in filter(None, text.split(",")):
            rule, equals, mode = part.partition("=")
            if not equals:
                raise UsageError(f"--{option.flag} {text[:MAX_SHOWN]}: write ID=MODE, with commas between them")
            self._put(option, (*RULES, rule.strip()), mode.strip())

    def _put(self, option: Option, path: Path, text: str) -> None:
        self._options[path] = option
        *inner, last = path
        at: dict[str, object] = self.values
        for key in inner:
            if isinstance(key, str):
                at = at.setdefault(key, {})  # type: ignore[assignment]
        at[str(last)] = text

    def _option(self, path: Path) -> Option:
        return self._options[path]

    def _flag(self, option: Option) -> object:
        return self._flags.get(option.flag.replace("-", "_"))

    def _text_of(self, option: Option) -> str | None:
        flag = self._flag(option)
        return self._environ.get(option.variable) if flag is None else str(flag)


def _without_replaced(flags: Mapping[str, object], environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment without QEMU's address where --qemu-listen or its variable replaces it.

    An image and a unit set the variable, and a container or a drop-in cannot always remove it.
    """
    if flags.get("qemu_listen") is None and "QMPGUARD_QEMU_LISTEN" not in environ:
        return environ
    return {name: value for name, value in environ.items() if name != "QMPGUARD_QEMU"}
