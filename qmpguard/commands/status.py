"""``qmpguard status``: how the VMs of a guard are."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from qmpguard.errors import UnavailableError, UsageError
from qmpguard.remote.admin import AdminClient
from qmpguard.remote.admin import add_arguments as add_visitor_arguments

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

#: the process of a guard, empty where it does not matter, and its VMs
Told: TypeAlias = "tuple[str, list[dict[str, Any]]]"

SUMMARY = "show how the VMs are"
DESCRIPTION = (
    "Show how the VMs of a guard are: from its memory, no QEMU is asked. Without ADMIN, show those of every guard on "
    "this machine that answers: root is answered by all, another user by the user's own. Exit code 0: every VM is "
    "ready; 1: some are not."
)

COLUMNS = ("VM", "STATE", "QEMU", "CLIENTS", "REFUSED", "WARNED", "MODE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_visitor_arguments(parser)
    parser.add_argument("--pid", metavar="PID", type=int, help="without ADMIN: only the guard that is this process")
    parser.add_argument("--json", action="store_true", help="for programs: all that is known")


def execute(arguments: argparse.Namespace) -> int:
    """Print a table, and below it what should be known. 0 when every VM is ready, 1 when one is not."""
    guards = _of_admin(arguments) if arguments.admin else _of_all(arguments.pid)
    vms = [vm for _, vms in guards for vm in vms]
    for line in [json.dumps({"vms": vms}, indent=2)] if arguments.json else lines(guards):
        print(line)
    return 0 if all(vm["state"] in ("ready", "busy") for vm in vms) else 1


def _of_admin(arguments: argparse.Namespace) -> list[Told]:
    if arguments.pid is not None:
        raise UsageError("--pid finds a guard without its admin interface; leave out one of the two")
    return [("", AdminClient(arguments.admin, arguments.token_file).read("/api/v1/vms")["vms"])]


def _of_all(pid: int | None) -> list[Told]:
    from qmpguard.remote.consoles import vms

    guards = [(f"{owner}", told) for owner, told in vms(pid)]
    if not guards:
        raise UnavailableError("no guard answers; ask as its user or as root, or say where its admin interface listens")
    return guards


def lines(guards: Sequence[Told]) -> Iterator[str]:
    """Yield the table, with each guard's process where there are several, and what should be known."""
    several = len(guards) > 1
    rows = [("PID", *COLUMNS), *((pid, *_row(vm)) for pid, vms in guards for vm in vms)]
    shown = rows if several else [row[1:] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    for pid, vms in guards:
        for note in _notes(vms):
            yield f"{pid}: {note}" if several else note


def _notes(vms: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what should be known, once where it is about the whole guard."""
    told = [(vm["name"], note) for vm in vms for note in (*vm["faults"], *vm["notes"])]
    times = Counter(note for _, note in told)
    of_all = {note for note, count in times.items() if 1 < count == len(vms)}
    yield from (f"all VMs: {note}" for note in dict.fromkeys(note for _, note in told) if note in of_all)
    yield from (f"{name}: {note}" for name, note in told if note not in of_all)


def _row(vm: dict[str, Any]) -> tuple[str, ...]:
    version = vm["qemu"]["version"] if vm["qemu"] else "-"
    counts = vm["counts"]
    numbers = (len(vm["clients"]), counts["refused"], counts["warned"])
    return (vm["name"], vm["state"], version, *map(str, numbers), f"{vm['mode']} ({vm['profile']})")
