"""A report on a live VM: which migrations would be refused if they began now, by which rule, why, and what helps."""

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
    arrivals,
    as_it_stands,
    forecasts,
    lacks_cpr,
    obstacle,
    others,
)
from qmpguard.policy.migration import Start
from qmpguard.policy.policy import Policy
from qmpguard.policy.survey import observe
from qmpguard.remote.inspection import EVERYTHING, nothing, telling, visit
from qmpguard.remote.standing import standing_of

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen, and what it means; with each forecast, why no migration in that direction can begin now."""

    address: str
    version: str
    package: str
    profile: str
    facts: Facts
    forecasts: tuple[tuple[Forecast, str], ...]
    judged_by: str = ""

    @property
    def refuses(self) -> bool:
        """Say whether a migration that could begin now would be refused."""
        return any(forecast.passes is Passes.NO and not obstacle for forecast, obstacle in self.forecasts)


async def check(
    address: str,
    policy: Policy | None = None,
    change: Callable[[Policy], Policy] | None = None,
    tell: Callable[[str], None] = nothing,
) -> Report:
    """Look at a live VM, at a guard's socket or QEMU's own, and return what would become of its migrations.

    Judged by ``policy``, or as the guard there judges; ``change`` is made to either. ``tell`` is told of what takes
    long. Asks QEMU a few questions and changes nothing. Raises `UnavailableError` when nobody answers there, and
    `UsageError` for what is no address.
    """
    where = parse_address(address)
    with telling(tell, "a guard on this machine does not say how it judges. Waiting for 5 s at most"):
        stands = (await asyncio.to_thread(standing_of, where)).by(policy, "the given policy")
    stands = stands.changed(change) if change else stands
    policy = stands.policy
    async with visit(where, tell) as guest:
        known = replace(stands.memory, version=numbers(guest.version))
        facts = await guest.ask(observe(policy, known, EVERYTHING))
        version, package = guest.version, guest.package
    ways = (as_it_stands(facts, policy), *forecasts(facts, policy))
    out = ((forecast, obstacle(facts, Start.OUTGOING)) for forecast in ways)
    more = ((forecast, _hinders(forecast, facts)) for forecast in others(facts, policy))
    into = ((forecast, obstacle(facts, Start.INCOMING)) for forecast in arrivals(facts, policy))
    return Report(str(where), version, package, policy.profile.value, facts, (*out, *more, *into), stands.words)


def _hinders(forecast: Forecast, facts: Facts) -> str:
    """Return why a snapshot, CPR or COLO cannot begin now, whatever the rules say."""
    return obstacle(facts, Start.OUTGOING) or (lacks_cpr(facts) if forecast.way == CPR else "")
