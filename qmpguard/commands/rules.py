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
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument(
        "--markdown", action="store_true", help="with every rule's documentation; docs/rules.md is made so"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Print the table."""
    print(_for_programs() if arguments.json else markdown() if arguments.markdown else _for_people())
    return 0


def _for_programs() -> str:
    from qmpguard.policy.rules import table

    return json.dumps([{"id": i, "standard": a, "strict": b, "summary": s} for i, a, b, s in table()], indent=2)


def _for_people() -> str:
    from qmpguard.policy.rules import table

    rows = [("rule", "standard", "strict", "what it does"), *table()]
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{i:{width}}  {standard:8}  {strict:7}  {summary}" for i, standard, strict, summary in rows)


def markdown_table() -> str:
    """Return the table of rules as every document has it."""
    from qmpguard.policy.rules import table

    head = "| rule | standard | strict | what it does |\n|---|---|---|---|"
    return "\n".join([head, *(f"| `{i}` | {a} | {b} | {s} |" for i, a, b, s in table())])


def markdown() -> str:
    """Return docs/rules.md: the table, and every rule's documentation."""
    from qmpguard.policy.rules import documentation, table

    texts = documentation()
    parts = [_HEAD, markdown_table()]
    for identity, standard, strict, _ in table():
        parts.append(f"## `{identity}`\n\nstandard: {standard} · strict: {strict}\n\n{texts[identity]}")
    return "\n\n".join(parts)


_HEAD = """# The rules

This page is written from the code by `make docs`. What to do about a refusal is in [operations.md](operations.md).

`enforce` refuses, `warn` lets pass and logs, `off` does not look. Of a rule's own mode and the global one the weaker
counts. A command is refused when a rule fails after it that did not fail before, or that fails when a migration starts;
so what makes a VM safer always passes. Never refused and never waiting: `migrate_cancel`, `migrate-pause`,
`migrate-continue`, `migrate-recover`, `migrate` with `resume`, and a capability list that switches neither of the two
capabilities on; in profile strict, unless they would run a program."""
