"""``qmpguard status``: the state of each VM of a guard."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeAlias

from qmpguard.errors import UnavailableError, UsageError
from qmpguard.remote.admin import AdminClient
from qmpguard.remote.admin import add_arguments as add_admin_arguments

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

#: a guard's PID, and its VMs as the API has them
GuardVms: TypeAlias = "tuple[str, list[dict[str, Any]]]"

SUMMARY = "show the state of each VM"
DESCRIPTION = (
    "Show the state of each VM of a guard, from the guard's memory: QEMU is not queried. Without ADMIN, show the VMs "
    "of every guard on this machine that answers: root is answered by all, another user by the user's own. Exit code "
    "0: every VM is ready; 1: some are not."
)

COLUMNS = ("VM", "STATE", "QEMU", "CLIENTS", "REFUSED", "WARNED", "MODE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_admin_arguments(parser)
    parser.add_argument("--pid", metavar="PID", type=int, help="without ADMIN: only the guard with this process id")
    parser.add_argument("--json", action="store_true", help="for programs: every member of each VM")


def execute(arguments: argparse.Namespace) -> int:
    """Print a table, and below it faults and notes. Return 0 when every VM is ready, 1 when one is not."""
    guards = _of_admin(arguments) if arguments.admin else _of_all(arguments.pid)
    vms = [vm for _, vms in guards for vm in vms]
    for line in [json.dumps({"vms": vms}, indent=2)] if arguments.json else lines(guards):
        print(line)
    return 0 if all(vm["state"] in ("ready", "busy") for vm in vms) else 1


def _of_admin(arguments: argparse.Namespace) -> list[GuardVms]:
    if arguments.pid is not None:
        raise UsageError("--pid finds a guard without its admin interface; leave out one of the two")
    return [("", AdminClient(arguments.admin, arguments.token_file).read("/api/v1/vms")["vms"])]


def _of_all(pid: int | None) -> list[GuardVms]:
    from qmpguard.remote.consoles import all_vms

    guards = [(str(guard_pid), vms) for guard_pid, vms in all_vms(pid)]
    if not guards:
        raise UnavailableError("no guard answers; ask as its user or as root, or say where its admin interface listens")
    return guards


def lines(guards: Sequence[GuardVms]) -> Iterator[str]:
    """Yield the lines of the table, then the faults and notes. Of several guards each line begins with the PID."""
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
    """Yield faults and notes, and the VFIO bytes of migrations; a note that all VMs have is yielded once."""
    notes = [(vm["name"], note) for vm in vms for note in (*vm["faults"], *vm["notes"], *_vfio_share(vm))]
    times = Counter(note for _, note in notes)
    of_all = {note for note, count in times.items() if 1 < count == len(vms)}
    yield from (f"all VMs: {note}" for note in dict.fromkeys(note for _, note in notes) if note in of_all)
    yield from (f"{name}: {note}" for name, note in notes if note not in of_all)


def _vfio_share(vm: dict[str, Any]) -> Iterator[str]:
    """Yield what the VFIO devices have transferred in the last or present migration, where QEMU reports it.

    A guard of an earlier version, which runs on after an upgrade, does not tell.
    """
    migration = vm.get("migration") or {}
    if (count := migration.get("vfio_transferred")) is not None:
        yield f"migration {migration['status']}; VFIO devices have transferred {count} bytes"


def _row(vm: dict[str, Any]) -> tuple[str, ...]:
    version = vm["qemu"]["version"] if vm["qemu"] else "-"
    counts = vm["counts"]
    numbers = (len(vm["clients"]), counts["refused"], counts["warned"])
    return (vm["name"], vm["state"], version, *map(str, numbers), f"{vm['mode']} ({vm['profile']})")
