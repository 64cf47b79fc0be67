"""A report on a live VM: which migrations would be refused if they began now, by which rule, why, and what helps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.address import parse_address
from qmpguard.policy.machine import Facts, Start, numbers
from qmpguard.policy.outlook import CPR, Chance, Prospect, arrivals, lacks_cpr, obstacle, others, outlook
from qmpguard.policy.policy import Policy
from qmpguard.policy.survey import observe
from qmpguard.visit.inspection import EVERYTHING, visit
from qmpguard.visit.standing import standing_of

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen, and what it means; with each prospect, why no migration in that direction can begin now."""

    address: str
    version: str
    package: str
    profile: str
    facts: Facts
    prospects: tuple[tuple[Prospect, str], ...]
    judged_by: str = ""

    @property
    def refuses(self) -> bool:
        """Say whether a migration that could begin now would be refused."""
        return any(prospect.chance is Chance.NO and not obstacle for prospect, obstacle in self.prospects)


async def check(address: str, policy: Policy | None = None, change: Callable[[Policy], Policy] | None = None) -> Report:
    """Look at a live VM, at a guard's socket or QEMU's own, and return what would become of its migrations.

    Judged by ``policy``, or as the guard there judges; ``change`` is made to either. Asks QEMU a few questions and
    changes nothing. Raises `UnavailableError` when nobody answers there, and `UsageError` for what is no address.
    """
    where = parse_address(address)
    stands = (await asyncio.to_thread(standing_of, where)).by(policy, "the given policy")
    stands = stands.changed(change) if change else stands
    policy = stands.policy
    async with visit(where) as guest:
        known = replace(stands.memory, version=numbers(guest.version))
        facts = await guest.ask(observe(policy, known, EVERYTHING))
        version, package = guest.version, guest.package
    out = ((prospect, obstacle(facts, Start.OUTGOING)) for prospect in outlook(facts, policy))
    more = ((prospect, _hinders(prospect, facts)) for prospect in others(facts, policy))
    into = ((prospect, obstacle(facts, Start.INCOMING)) for prospect in arrivals(facts, policy))
    return Report(str(where), version, package, policy.profile.value, facts, (*out, *more, *into), stands.words)


def _hinders(prospect: Prospect, facts: Facts) -> str:
    """Return why a snapshot, CPR or COLO cannot begin now, whatever the rules say."""
    return obstacle(facts, Start.OUTGOING) or (lacks_cpr(facts) if prospect.way == CPR else "")
