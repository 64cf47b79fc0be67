"""``qmpguard check``: what would become of a migration of a live VM."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.commands.judging import add_policy_arguments, changed_by, policy_of, qemu_check_words, tell

if TYPE_CHECKING:
    import argparse

    from qmpguard.policy.forecast import Forecast
    from qmpguard.remote.report import Report

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
    from qmpguard.remote.report import check

    change = partial(changed_by, arguments)
    report = asyncio.run(check(arguments.address, policy_of(arguments), change, tell))
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
                "way": forecast.way,
                "passes": forecast.passes.name.lower(),
                "not_now": obstacle,
                "once": list(forecast.once),
                "rule": forecast.rule,
                "reason": forecast.reason,
                "fix": forecast.fix,
                "qemu_itself": qemu_check_words(forecast.qemu_check),
            }
            for forecast, obstacle in report.forecasts
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
    for forecast, obstacle in report.forecasts:
        lines += _forecast_for_people(forecast, obstacle)
    return "\n".join(lines)


#: columns for the names of the ways to migrate
_WIDTH = 21


def _forecast_for_people(forecast: Forecast, obstacle: str) -> list[str]:
    from qmpguard.policy.forecast import Passes

    indent = " " * (_WIDTH + 2)
    if obstacle:
        return [f"  {forecast.way:{_WIDTH}}not now: {obstacle}"]
    word = {Passes.YES: "passes", Passes.WARNED: "passes, with a warning", Passes.NO: "refused"}
    once = f", once {' and '.join(forecast.once)}" if forecast.once else ""
    lines = [f"  {forecast.way:{_WIDTH}}{word.get(forecast.passes, forecast.passes.value)}{once}"]
    if forecast.reason:
        lines.append(indent + forecast.reason)
    if forecast.rule:
        lines.append(f"{indent}rule {forecast.rule}; what helps: {forecast.fix}")
        lines.append(f"{indent}would QEMU itself refuse it? {forecast.qemu_check}")
    return lines
