"""``qmpguard check``: what would become of a migration of a live VM."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.commands.judging import add_policy_arguments, changed_by, native_words, policy_of

if TYPE_CHECKING:
    import argparse

    from qmpguard.policy.outlook import Prospect
    from qmpguard.visit.report import Report

SUMMARY = "say which migrations of a live VM would be refused, why, and what helps"
DESCRIPTION = (
    "Look at a live VM and say which migrations would be refused if they began now, by which rule, why, what helps, "
    "and what QEMU itself would do. Asks QEMU a few questions and changes nothing. ADDR is a guard's socket or QEMU's "
    "own. Exit code 0: none would be refused; 1: some would; 69: nobody answers."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("address", metavar="ADDR", help="a guard's socket, or QEMU's QMP socket")
    add_policy_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Look, and tell."""
    from qmpguard.visit.report import check

    change = partial(changed_by, arguments)
    report = asyncio.run(check(arguments.address, policy_of(arguments), change))
    print(json.dumps(_for_programs(report), indent=2) if arguments.json else _for_people(report))
    return 1 if report.refuses else 0


def _for_programs(report: Report) -> dict[str, object]:
    from qmpguard.policy.portrait import draw

    return {
        "address": report.address,
        "qemu": {"version": report.version, "package": report.package},
        "profile": report.profile,
        "judged_by": report.judged_by,
        "refuses": report.refuses,
        "migrations": [
            {
                "way": prospect.way,
                "passes": prospect.chance.name.lower(),
                "not_now": obstacle,
                "rule": prospect.rule,
                "reason": prospect.reason,
                "fix": prospect.fix,
                "qemu_itself": native_words(prospect.native),
            }
            for prospect, obstacle in report.prospects
        ],
        "machine": draw(report.facts),
    }


def _for_people(report: Report) -> str:
    facts = report.facts
    devices = ", ".join(
        f"{device.label} ({device.driver})" for device in (*(facts.details or ()), *(facts.blocks or ()))
    )
    migration = facts.migration
    lines = [
        f"QEMU {report.version} {report.package}".rstrip() + f" at {report.address}: {facts.runstate}",
        f"VFIO devices: {devices or 'none'}",
        f"capabilities that are on: {', '.join(sorted(facts.capabilities or ())) or 'none'}",
        f"last migration: {migration.status if migration else 'none'}",
        *(f"QEMU's own blocker: {blocker}" for blocker in (migration.blockers if migration else ())),
        "",
        f"Judged by {report.judged_by}.",
        "What would become of a migration now:",
    ]
    for prospect, obstacle in report.prospects:
        lines += _prospect_for_people(prospect, obstacle)
    return "\n".join(lines)


#: columns for the names of the ways to migrate
_WIDTH = 21


def _prospect_for_people(prospect: Prospect, obstacle: str) -> list[str]:
    from qmpguard.policy.outlook import Chance

    indent = " " * (_WIDTH + 2)
    if obstacle:
        return [f"  {prospect.way:{_WIDTH}}not now: {obstacle}"]
    word = {Chance.YES: "passes", Chance.WARNED: "passes, with a warning", Chance.NO: "refused"}
    lines = [f"  {prospect.way:{_WIDTH}}{word.get(prospect.chance, prospect.chance.value)}"]
    if prospect.reason:
        lines.append(indent + prospect.reason)
    if prospect.rule:
        lines.append(f"{indent}rule {prospect.rule}; what helps: {prospect.fix}")
        lines.append(f"{indent}would QEMU itself refuse it? {prospect.native}")
    return lines
