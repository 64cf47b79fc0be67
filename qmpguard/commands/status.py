"""``qmpguard status``: the state of each VM of a guard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qmpguard.remote.admin import AdminClient
from qmpguard.remote.admin import add_arguments as add_admin_arguments

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

SUMMARY = "show the state of each VM"
DESCRIPTION = "Show the state of each VM of a guard, from the guard's memory: QEMU is not queried."

COLUMNS = ("VM", "STATE", "QEMU", "CLIENTS", "REFUSED", "WARNED", "MODE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_admin_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for programs: every member of each VM")


def execute(arguments: argparse.Namespace) -> int:
    """Print a table, and below it faults and notes. Return 0 when every VM is ready, 1 when one is not."""
    body = AdminClient(arguments.admin, arguments.token_file).read("/api/v1/vms")
    vms = body["vms"]
    for line in [json.dumps(body, indent=2)] if arguments.json else lines(vms):
        print(line)
    return 0 if all(vm["state"] in ("ready", "busy") for vm in vms) else 1


def lines(vms: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table, then the faults and notes of each VM."""
    rows = [COLUMNS, *(_row(vm) for vm in vms)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
    for vm in vms:
        for note in (*vm["faults"], *vm["notes"]):
            yield f"{vm['name']}: {note}"


def _row(vm: dict[str, Any]) -> tuple[str, ...]:
    version = vm["qemu"]["version"] if vm["qemu"] else "-"
    counts = vm["counts"]
    numbers = (len(vm["clients"]), counts["refused"], counts["warned"])
    return (vm["name"], vm["state"], version, *map(str, numbers), f"{vm['mode']} ({vm['profile']})")
