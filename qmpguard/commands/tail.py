"""``qmpguard tail``: decisions, events and changes as they happen."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from qmpguard.remote.admin import AdminClient
from qmpguard.remote.admin import add_arguments as add_admin_arguments

if TYPE_CHECKING:
    import argparse

SUMMARY = "show decisions, events and changes as they happen"
DESCRIPTION = "Show decisions, drift, changes of links, overrides and QEMU's events as they happen."

KINDS = "decision,drift,link,override,event"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_admin_arguments(parser)
    parser.add_argument("--vm", metavar="NAME", help="only entries of this VM")
    parser.add_argument("--kinds", metavar="KIND,...", default=KINDS, help=f"only these kinds (default: {KINDS})")
    parser.add_argument("--since", metavar="REF", help="begin after this entry; 0: with the oldest that is kept")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object a line")


def execute(arguments: argparse.Namespace) -> int:
    """Print a line for each entry, until interrupted."""
    asked = {"vm": arguments.vm, "kinds": arguments.kinds, "since": arguments.since}
    query = urlencode({name: value for name, value in asked.items() if value})
    for entry in AdminClient(arguments.admin, arguments.token_file).stream(f"/api/v1/stream?{query}"):
        if "kind" in entry:  # without it, the message is the state of a VM
            print(json.dumps(entry) if arguments.json else line(entry), flush=True)
    return 0


def line(entry: dict[str, Any]) -> str:
    """Return an entry as one line."""
    time = datetime.fromtimestamp(entry["time"]).astimezone().isoformat(timespec="milliseconds")
    return f"{time} {entry['vm']} {entry['kind']} {_details(entry)}"


def _details(entry: dict[str, Any]) -> str:
    match entry["kind"]:
        case "decision":
            client = entry["client"]
            client_text = f"client={client['number']} uid={client['uid']}"
            findings = "; ".join(f"{one['rule']}: {one['reason']}" for one in entry["findings"])
            command = f"{entry['command']} {entry['hmp']!r}" if entry.get("hmp") else entry["command"]
            return f"{entry['outcome']} {command} {client_text} ref={entry['ref']} {findings}".rstrip()
        case "drift":
            before, after = (", ".join(entry[side]) or "none" for side in ("before", "after"))
            return f"{entry['fact']}: {before} -> {after}"
        case "link":
            return f"{'up' if entry['up'] else 'down'}: {entry['what']}"
        case "override":
            what = f"{'begun' if entry['begun'] else 'over'} rule={entry['rule'] or 'all'}"
            return f"{what} uid={entry['client']['uid']} reason={entry['reason']!r}"
        case _:
            return f"{entry['name']} {json.dumps(entry['data'])}"
