"""The options of `run`: what each sets, its flag and its form in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qmpguard.errors import UsageError
from qmpguard.settings.table import Item

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from qmpguard.errors import QmpguardError
    from qmpguard.settings.places import Path


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its flag without the dashes, the setting that it makes, and what help says."""

    flag: str
    path: Path
    metavar: str
    help: str
    bare: str | None = None  # the value of the flag where it stands alone

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"QMPGUARD_{self.flag.upper().replace('-', '_')}"

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add it to a command."""
        told = f"{self.help} [{self.variable}]"
        if self.bare is None:
            parser.add_argument(f"--{self.flag}", metavar=self.metavar, help=told)
        else:
            parser.add_argument(f"--{self.flag}", metavar=self.metavar, help=told, nargs="?", const=self.bare)


#: characters of a word that an error repeats
MAX_SHOWN = 200

VM: Path = ("vm", 0)
POLICY: Path = ("policy",)
RULES: Path = ("policy", "rules")

#: the file that says it all
CONFIG = Option("config", (), "FILE", "a file that says what to guard, any number of VMs")

OPTIONS = (
    Option("qemu", (*VM, "qemu"), "ADDR", "QEMU's QMP socket"),
    Option("qemu-listen", (*VM, "qemu_listen"), "ADDR", "instead of --qemu: where the guard listens and QEMU dials in"),
    Option(
        "listen",
        (*VM, "listen"),
        "ADDR",
        "where the clients connect; fd:NAME: a socket of systemd's (default: fd:qmp if passed)",
    ),
    Option(
        "takeover", (*VM, "takeover"), "PATH", "move QEMU's socket to PATH.qemu, and let the clients connect at PATH"
    ),
    Option(
        "absent",
        (*VM, "absent"),
        "HOW",
        "clients that come after QEMU's end: refuse them, as QEMU would, or let them wait (default: refuse)",
    ),
    Option(
        "end-with-qemu",
        ("end_with_qemu",),
        "BOOL",
        "end when QEMU ends, of several VMs all of them (default: false)",
        bare="true",
    ),
    Option("name", (*VM, "name"), "NAME", "the VM's name in logs (default: vm)"),
    Option("profile", (*POLICY, "profile"), "PROFILE", "standard, or strict: also no way around the guard"),
    Option("mode", (*POLICY, "mode"), "MODE", "enforce, or warn: log what would be refused"),
    Option("rules", RULES, "ID=MODE,...", "modes of single rules: enforce, warn or off; see qmpguard rules"),
    Option("extra-types", (*POLICY, "extra_types"), "TYPE,...", "more types of devices that count as VFIO"),
    Option(
        "allow-failover-primary",
        (*POLICY, "allow_failover_primary"),
        "BOOL",
        "exempt a device whose failover standby is there (default: false)",
    ),
    Option("survey-timeout", (*VM, "survey_timeout"), "S", "seconds that a verdict may wait for QEMU (default: 60)"),
    Option("drift-interval", (*VM, "drift_interval"), "S", "seconds between two looks at QEMU; 0: none (default: 30)"),
    Option("socket-mode", (*VM, "socket_mode"), "MODE", "permissions of the clients' socket (default: 0600)"),
    Option("socket-group", (*VM, "socket_group"), "GROUP", "group of the clients' socket"),
    Option("allow-users", (*VM, "allow_users"), "USER,...", "the users that may connect (default: no list)"),
    Option("allow-groups", (*VM, "allow_groups"), "GROUP,...", "the groups that may connect (default: no list)"),
    Option("role", (*VM, "role"), "ROLE", "operator, or observer: clients may only ask (default: operator)"),
    Option("max-clients", (*VM, "max_clients"), "N", "clients at once (default: 1024)"),
    Option("max-request", (*VM, "max_request"), "N", "bytes of a client's request (default: 4194304)"),
    Option("admin", ("admin", "listen"), "ADDR", "where the admin interface listens (default: nowhere)"),
    Option("admin-token-file", ("admin", "token_file"), "FILE", "the secret that the admin interface asks for on TCP"),
    Option("admin-hosts", ("admin", "hosts"), "NAME,...", "names that browsers call it by, beside localhost"),
    Option("log-level", ("log", "level"), "LEVEL", "debug, info, warning or error (default: info)"),
    Option("log-format", ("log", "format"), "FORMAT", "text, or json: one object a line (default: text)"),
    Option("audit", ("log", "audit"), "FILE", "write every decision to a file, one JSON object a line"),
    Option("traffic", ("log", "traffic"), "FILE", "write every request to a file, without secrets"),
    Option("traffic-exclude", ("log", "traffic_exclude"), "COMMAND,...", "commands that the traffic file leaves out"),
    Option("otel", ("log", "otel"), "BOOL", "export decisions to OpenTelemetry; needs qmpguard[otel] (default: false)"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command; each has a form in the environment, for containers."""
    for option in (CONFIG, *OPTIONS):
        option.add_to(parser)


class Words:
    """What flags and environment say. ``spare`` has values for options that neither names."""

    def __init__(
        self,
        flags: Mapping[str, object],
        environ: Mapping[str, str] = os.environ,
        spare: Mapping[str, str] | None = None,
    ) -> None:
        self._flags = flags
        self._environ = environ
        self._options: dict[Path, Option] = {}
        self.values: dict[str, object] = {}
        self.config = self._written(CONFIG)
        for option in OPTIONS:
            word = self._written(option)
            if word is not None or (word := (spare or {}).get(option.flag)) is not None:
                self._set(option, word)

    def item(self, path: Path, value: object) -> Item:
        """Return a value with its flag or variable."""
        option = self._option(path)
        if self._flag(option) is not None:
            origin, written = f"--{option.flag}", f"--{option.flag} {value}"
        elif option.variable in self._environ:
            origin, written = f"environment {option.variable}", f"{option.variable}={value} in the environment"
        else:
            origin, written = "systemd", f"--{option.flag} {value}"
        if option.path == RULES:
            written = f"{origin} {path[-1]}={value}"
        return Item(value, origin, "", written, UsageError, words=True)

    def lacks(self, path: Path) -> QmpguardError:
        """Return the error that an option is missing."""
        option = next(option for option in OPTIONS if option.path == path)
        return UsageError(f"--{option.flag} {option.metavar} is missing, or {option.variable} in the environment")

    def called(self, path: Path) -> str:
        """Return the flag of a setting, or where its value comes from the environment, its variable."""
        option = next(option for option in (CONFIG, *OPTIONS) if option.path == path)
        from_environment = self._flag(option) is None and option.variable in self._environ
        return option.variable if from_environment else f"--{option.flag}"

    def has(self, path: Path) -> bool:
        """Say whether a setting was written here."""
        return path in self._options

    @property
    def of_vm(self) -> str | None:
        """An option that a configuration file says itself; None where there is none."""
        for path, option in self._options.items():
            if path[0] in ("vm", "policy"):
                return f"--{option.flag}" if self._flag(option) is not None else option.variable
        return None

    def _set(self, option: Option, word: str) -> None:
        if option.path != RULES:
            self._put(option, option.path, word)
            return
        for part in filter(None, word.split(",")):
            rule, equals, mode = part.partition("=")
            if not equals:
                raise UsageError(f"--{option.flag} {word[:MAX_SHOWN]}: write ID=MODE, with commas between them")
            self._put(option, (*RULES, rule.strip()), mode.strip())

    def _put(self, option: Option, path: Path, word: str) -> None:
        self._options[path] = option
        *inner, last = path
        at: dict[str, object] = self.values
        for key in inner:
            if isinstance(key, str):
                at = at.setdefault(key, {})  # type: ignore[assignment]
        at[str(last)] = word

    def _option(self, path: Path) -> Option:
        return self._options[path]

    def _flag(self, option: Option) -> object:
        return self._flags.get(option.flag.replace("-", "_"))

    def _written(self, option: Option) -> str | None:
        flag = self._flag(option)
        return self._environ.get(option.variable) if flag is None else str(flag)
