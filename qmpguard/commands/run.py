"""``qmpguard run``: guard a QEMU."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from qmpguard.address import parse_address, parse_listen_address
from qmpguard.errors import UsageError

if TYPE_CHECKING:
    import argparse

SUMMARY = "guard a QEMU"
DESCRIPTION = "Guard a QEMU's QMP socket."

#: the name of the socket that systemd/qmpguard@.socket passes
SOCKET = "qmp"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; each has a form in the environment, for containers."""

    def option(name: str, **settings: str | float | list[str] | type | None) -> None:
        variable = "QMPGUARD_" + name.upper().replace("-", "_")
        default = os.environ.get(variable, settings.pop("default", None))
        settings["help"] = f"{settings['help']} [{variable}]"
        parser.add_argument(f"--{name}", default=default, **settings)  # type: ignore[arg-type]

    option("qemu", metavar="ADDR", help="QEMU's QMP socket")
    option(
        "listen",
        metavar="ADDR",
        help="where the clients connect; fd:NAME: a socket of systemd's (default: fd:qmp if passed)",
    )
    option("name", metavar="NAME", default="vm", help="the VM's name in logs (default: vm)")
    option("profile", metavar="PROFILE", default="standard", help="standard, or strict: also no way around the guard")
    option("mode", metavar="MODE", default="enforce", help="enforce, or warn: log what would be refused")
    option("survey-timeout", metavar="S", default="60", help="seconds that a verdict may wait for QEMU (default: 60)")
    option("log-level", metavar="LEVEL", default="info", help="debug, info, warning or error (default: info)")


def execute(arguments: argparse.Namespace) -> int:
    """Guard until SIGTERM or SIGINT."""
    from qmpguard.config import Config, VmConfig
    from qmpguard.daemon import serve
    from qmpguard.policy.policy import Mode, Policy, Profile
    from qmpguard.systemd import take_sockets

    sockets = take_sockets()
    if not arguments.listen and SOCKET in sockets:
        arguments.listen = f"fd:{SOCKET}"
    for name in ("qemu", "listen"):
        if not getattr(arguments, name):
            raise UsageError(f"run needs --{name} ADDR, or QMPGUARD_{name.upper()} in the environment")
    if arguments.mode not in ("enforce", "warn"):
        raise UsageError(f"--mode {arguments.mode}: it is enforce or warn")
    if arguments.profile not in ("standard", "strict"):
        raise UsageError(f"--profile {arguments.profile}: it is standard or strict")
    _log_to_stderr(arguments.log_level)
    vm = VmConfig(
        arguments.name,
        parse_address(arguments.qemu),
        parse_listen_address(arguments.listen),
        Policy(Mode(arguments.mode), Profile(arguments.profile)),
        _seconds("--survey-timeout", arguments.survey_timeout),
    )
    asyncio.run(serve(Config((vm,)), sockets))
    return 0


def _seconds(option: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise UsageError(f"{option} {text}: it is a number of seconds, more than 0 and at most 3600")
    return seconds


def _log_to_stderr(level: str) -> None:
    names = logging.getLevelNamesMapping()
    if level.upper() not in names:
        raise UsageError(f"--log-level {level}: it is debug, info, warning or error")
    logging.basicConfig(
        level=names[level.upper()], format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
    )
