"""``qmpguard check``: the forecast for each migration of a live VM."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.commands.policy_options import (
    add_policy_arguments,
    configured_policy,
    qemu_check_members,
    tell,
    with_options,
)

if TYPE_CHECKING:
    import argparse

    from qmpguard.policy.facts import Facts
    from qmpguard.policy.forecast import Forecast
    from qmpguard.policy.migration import Migration
    from qmpguard.remote.report import Report

SUMMARY = "show which migrations of a live VM would be refused, why, and the fix"
DESCRIPTION = (
    "Query a live VM and show which migrations would be refused if they began now: the rule, the reason, the fix, and "
    "whether QEMU itself would refuse. Sends QEMU a few queries and changes nothing. ADDR is a guard's socket or "
    "QEMU's own. Exit code 0: none would be refused; 1: some would; 69: no QEMU answers."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("address", metavar="ADDR", help="a guard's socket, or QEMU's QMP socket")
    add_policy_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Query the VM and print the report."""
    from qmpguard.remote.report import check

    change = partial(with_options, arguments)
    report = asyncio.run(check(arguments.address, configured_policy(arguments), change, tell))
    print(json.dumps(_json(report), indent=2) if arguments.json else _text(report))
    return 1 if report.refuses else 0


def _json(report: Report) -> dict[str, object]:
    from qmpguard.policy.machine_json import facts_to_json

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
                "qemu_itself": qemu_check_members(forecast.qemu_check),
            }
            for forecast, obstacle in report.forecasts
        ],
        "machine": facts_to_json(report.facts),
        "unknown_back_ends": list(_unknown_back_ends(report.facts)),
    }


def _unknown_back_ends(facts: Facts) -> tuple[str, ...]:
    """Return the virtio-net devices whose back end the guard does not know: QEMU does not show its type."""
    known = {back_end.id for back_end in facts.netdevs}
    return tuple(device for identity, device in facts.nics or () if identity not in known)


def _text(report: Report) -> str:
    facts = report.facts
    devices = ", ".join(
        f"{device.label} ({device.driver})" for device in (*(facts.details or ()), *(facts.blocks or ()))
    )
    migration = facts.migration
    lines = [
        f"QEMU {report.version} {report.package}".rstrip() + f" at {report.address}: {facts.runstate}",
        f"VFIO devices: {devices or 'none'}",
        *(f"network back end: {back_end.id} ({back_end.driver})" for back_end in facts.netdevs),
        *_on_unknown(_unknown_back_ends(facts)),
        f"capabilities that are on: {', '.join(sorted(facts.capabilities or ())) or 'none'}",
        f"last migration: {migration.status if migration else 'none'}{_vfio_share(migration)}",
        *(f"QEMU's own blocker: {blocker}" for blocker in (migration.blockers if migration else ())),
        "",
        f"Judged by {report.judged_by}.",
        "What would become of a migration now:",
    ]
    for forecast, obstacle in report.forecasts:
        lines += _forecast_text(forecast, obstacle)
    return "\n".join(lines)


def _vfio_share(migration: Migration | None) -> str:
    """Return what the VFIO devices have transferred, as QEMU reports it; empty where it reports nothing."""
    progress = migration.progress if migration else None
    return "" if progress is None or progress.vfio is None else f"; {progress.vfio} bytes of VFIO devices"


_HAZARD = "With vhost-vdpa, postcopy and background snapshot are not safe; with vhost-user, background snapshot is not."


def _on_unknown(devices: tuple[str, ...]) -> list[str]:
    if not devices:
        return []
    names = ", ".join(devices)
    return [f"network back ends of unknown type: {names}. {_HAZARD}"]


#: columns for the name of a way to migrate
_WIDTH = 21


def _forecast_text(forecast: Forecast, obstacle: str) -> list[str]:
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
