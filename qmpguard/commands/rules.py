"""``qmpguard rules``: print the rules and their defaults."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

SUMMARY = "print the rules"
DESCRIPTION = "Print the rules and their defaults."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="for programs")


def execute(arguments: argparse.Namespace) -> int:
    """Print the table."""
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
