"""``qmpguard override``: let a rule warn instead of refuse, for a stated time."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpguard.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import argparse

    from qmpguard.remote.consoles import ConsoleInfo

SUMMARY = "let a rule warn instead of refuse, for a while"
DESCRIPTION = (
    "Let one rule of a VM, or all of them, warn instead of refuse, for a stated time and with a reason for the log and "
    "the audit: for an emergency. An override ends when its time is over, or when the guard's process ends. Only root "
    "and the guard's own user can begin one. Without options, show the overrides."
)

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_TIME = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--rule", metavar="ID", help="the rule; see qmpguard rules")
    parser.add_argument("--all-rules", action="store_true", help="every rule")
    parser.add_argument("--for", metavar="TIME", dest="time", help="how long: 90s, 10m, 2h; at most 24h")
    parser.add_argument("--reason", metavar="TEXT", help="why; it goes into the log and the audit")
    parser.add_argument("--end", action="store_true", help="end it now")
    parser.add_argument("--vm", metavar="NAME", help="the VM, where there are several")
    parser.add_argument("--pid", metavar="PID", type=int, help="the guard's process, where there are several")


def execute(arguments: argparse.Namespace) -> int:
    """Begin, end or show overrides."""
    from qmpguard.remote.consoles import all_consoles, find_console

    if not (arguments.rule or arguments.all_rules):
        if arguments.time or arguments.reason or arguments.end:
            raise UsageError("say which: --rule ID, or --all-rules")
        return _show(list(all_consoles(arguments.pid)), arguments.vm)
    if arguments.rule and arguments.all_rules:
        raise UsageError("--rule and --all-rules exclude each other")
    request = _end(arguments) if arguments.end else _begin(arguments)
    return _do(*find_console(arguments.pid, arguments.vm), request)


def _begin(arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    if not (arguments.time and arguments.reason):
        raise UsageError("an override needs --for TIME and --reason TEXT")
    return {"begin": {"rule": arguments.rule, "seconds": _seconds(arguments.time), "reason": arguments.reason}}


def _end(arguments: argparse.Namespace) -> dict[str, dict[str, object]]:
    if arguments.time or arguments.reason:
        raise UsageError("--end needs neither --for nor --reason")
    return {"end": {"rule": arguments.rule}}


def _do(found: ConsoleInfo, vm: str, request: dict[str, dict[str, object]]) -> int:
    from qmpguard.remote.consoles import ask

    for members in request.values():
        members["vm"] = vm
    answer = ask(found, dict(request))
    if answer is False:
        raise UsageError(f"{vm}: nothing of that kind is overridden")
    print(f"{vm}: {'the override is over' if answer is True else _sentence(answer)}")
    return 0


def _show(guards: list[ConsoleInfo], wanted: str | None) -> int:
    shown = [(guard.pid, vm, told) for guard in guards for vm, told in guard.vms.items() if wanted in (None, vm)]
    if not shown:
        raise UnavailableError(f"no guard {f'for VM {wanted} ' if wanted else ''}answers; ask as its user or as root")
    several = len({pid for pid, _, _ in shown}) > 1
    for pid, vm, overrides in shown:
        name = f"{pid}: {vm}" if several else vm
        for override in overrides or (None,):
            print(f"{name}: {'nothing is overridden' if override is None else _sentence(override)}")
    return 0


def _sentence(override: object) -> str:
    from datetime import datetime

    assert isinstance(override, dict)
    until = datetime.fromtimestamp(override["until"]).astimezone().isoformat(timespec="seconds")
    what = f"rule {override['rule']} warns" if override["rule"] else "all rules warn"
    return f"{what} until {until}: {override['reason']}"


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise UsageError(f"--for {text}: write a time as 90s, 10m or 2h")
    return float(match[1]) * _UNITS[match[2]]
