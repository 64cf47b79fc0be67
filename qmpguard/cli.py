"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from typing import TYPE_CHECKING

from qmpguard.address import parse_address
from qmpguard.errors import QmpguardError, UsageError
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 good, 2 usage, 69 nothing answers, 78 configuration."""
    arguments = _parser().parse_args(argv)
    code = 0
    try:
        code = arguments.run(arguments)
    except QmpguardError as error:
        print(f"qmpguard: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except (BrokenPipeError, ExceptionGroup) as error:
        if isinstance(error, ExceptionGroup) and error.split(BrokenPipeError)[1]:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on, as behind `head`
        code = 141
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qmpguard",
        description="A QMP proxy that keeps VFIO devices away from postcopy migration and background snapshot.",
        epilog="An address is unix:/path or a bare path, tcp:host:port, or fd:N.",
    )
    parser.add_argument("--version", action="version", version=f"qmpguard {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="guard a QEMU", description="Guard a QEMU's QMP socket."))
    rules = commands.add_parser("rules", help="print the rules", description="Print the rules and their defaults.")
    rules.add_argument("--json", action="store_true", help="for programs")
    rules.set_defaults(run=_rules)
    demo = commands.add_parser(
        "demo", help="see it work", description="Show what a real QEMU answers with and without the guard."
    )
    demo.set_defaults(run=_demo)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    def option(name: str, **settings: str | float | list[str] | type | None) -> None:
        variable = "QMPGUARD_" + name.upper().replace("-", "_")
        default = os.environ.get(variable, settings.pop("default", None))
        settings["help"] = f"{settings['help']} [{variable}]"
        parser.add_argument(f"--{name}", default=default, **settings)  # type: ignore[arg-type]

    option("qemu", metavar="ADDR", help="QEMU's QMP socket")
    option("listen", metavar="ADDR", help="where the clients connect")
    option("name", metavar="NAME", default="vm", help="the VM's name in logs (default: vm)")
    option("profile", metavar="PROFILE", default="standard", help="standard, or strict: also no way around the guard")
    option("mode", metavar="MODE", default="enforce", help="enforce, or warn: log what would be refused")
    option("survey-timeout", metavar="S", default="60", help="seconds that a verdict may wait for QEMU (default: 60)")
    option("log-level", metavar="LEVEL", default="info", help="debug, info, warning or error (default: info)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from qmpguard.config import Config, VmConfig
    from qmpguard.daemon import serve
    from qmpguard.policy.policy import Mode, Policy, Profile

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
        parse_address(arguments.listen),
        Policy(Mode(arguments.mode), Profile(arguments.profile)),
        _seconds("--survey-timeout", arguments.survey_timeout),
    )
    asyncio.run(serve(Config((vm,))))
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


def _rules(arguments: argparse.Namespace) -> int:
    from qmpguard.policy.rules import table

    rows = table()
    if arguments.json:
        print(json.dumps([{"id": i, "standard": a, "strict": b, "summary": s} for i, a, b, s in rows], indent=2))
        return 0
    width = max(len(row[0]) for row in rows)
    print(f"{'rule':{width}}  standard  strict   what it does")
    for identity, standard, strict, summary in rows:
        print(f"{identity:{width}}  {standard:8}  {strict:7}  {summary}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from qmpguard.demo.story import tell

    return asyncio.run(tell())
