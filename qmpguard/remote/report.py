"""A report on a live VM: the migrations that would be refused if they began now, with rule, reason and fix."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.address import parse_address
from qmpguard.policy.facts import Facts, numbers
from qmpguard.policy.forecast import (
    CPR,
    Forecast,
    Passes,
    as_it_stands,
    forecasts,
    incoming_forecasts,
    lacks_cpr,
    obstacle,
    others,
)
from qmpguard.policy.migration import Start
from qmpguard.policy.policy import Policy
from qmpguard.policy.survey import observe
from qmpguard.remote.effective_policy import effective_policy_at
from qmpguard.remote.inspection import ALL_FACTS, ignore, notice, open_vm

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Report:
    """The facts about a VM and its forecasts. The text beside a forecast says why that migration cannot begin now."""

    address: str
    version: str  # QEMU's
    package: str  # its packager's version
    profile: str
    facts: Facts
    forecasts: tuple[tuple[Forecast, str], ...]
    judged_by: str = ""  # the source of the policy, for people

    @property
    def refuses(self) -> bool:
        """Say whether a migration that could begin now would be refused."""
        return any(forecast.passes is Passes.NO and not obstacle for forecast, obstacle in self.forecasts)


async def check(
    address: str,
    policy: Policy | None = None,
    change: Callable[[Policy], Policy] | None = None,
    tell: Callable[[str], None] = ignore,
) -> Report:
    """Return a report on the VM at an address: a guard's socket, or QEMU's own.

    Judges by ``policy``; None: by the guard's policy. ``change`` is applied to either. ``tell`` is called with a notice
    about a long wait. Sends QEMU a few queries and changes nothing. Raises `UnavailableError` when no QEMU answers
    there, and `UsageError` for an unreadable address.
    """
    where = parse_address(address)
    with notice(tell, "a guard on this machine does not answer. Waiting for 5 s at most"):
        judged_by = (await asyncio.to_thread(effective_policy_at, where)).replaced_by(policy, "the given policy")
    judged_by = judged_by.changed_by(change) if change else judged_by
    policy = judged_by.policy
    async with open_vm(where, tell) as vm:
        known = replace(judged_by.memory, version=numbers(vm.version))
        facts = await vm.ask(observe(policy, known, ALL_FACTS))
        version, package = vm.version, vm.package
    ways = (as_it_stands(facts, policy), *forecasts(facts, policy))
    out = ((forecast, obstacle(facts, Start.OUTGOING)) for forecast in ways)
    more = ((forecast, _obstacle_for(forecast, facts)) for forecast in others(facts, policy))
    into = ((forecast, obstacle(facts, Start.INCOMING)) for forecast in incoming_forecasts(facts, policy))
    return Report(
        str(where), version, package, policy.profile.value, facts, (*out, *more, *into), judged_by.description
    )


def _obstacle_for(forecast: Forecast, facts: Facts) -> str:
    """Return why a snapshot, CPR or COLO cannot begin now, whatever the rules say."""
    return obstacle(facts, Start.OUTGOING) or (lacks_cpr(facts) if forecast.way == CPR else "")
