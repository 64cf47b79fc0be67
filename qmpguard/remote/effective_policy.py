"""The policy by which a live VM is judged, and the facts that its guard remembers.

Both come from the guard's console. Where no console answers, the policy is the default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.policy.facts import Facts
from qmpguard.policy.policy import Policy
from qmpguard.policy.portrait import read_memory, read_policy
from qmpguard.remote.consoles import policies_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.address import Address


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """A policy, the text that says where it comes from, and facts that only a guard remembers."""

    policy: Policy
    source: str
    memory: Facts = Facts()  # noqa: RUF009 -- it is frozen

    def replaced_by(self, policy: Policy | None, source: str) -> EffectivePolicy:
        """Return a copy with another policy, or itself for None. The facts that the guard remembers stay."""
        return self if policy is None else replace(self, policy=policy, source=source)

    def changed_by(self, change: Callable[[Policy], Policy]) -> EffectivePolicy:
        """Return a copy whose policy is changed by options; ``source`` says so."""
        policy = change(self.policy)
        if policy == self.policy:
            return self
        return replace(self, policy=policy, source=f"{self.source}, changed by options")

    @property
    def description(self) -> str:
        """The source of the policy, with its mode and profile."""
        return f"{self.source}: mode {self.policy.mode.value}, profile {self.policy.profile.value}"


def effective_policy_at(address: Address) -> EffectivePolicy:
    """Return the policy by which the VM at an address is judged.

    Blocks for some milliseconds, or 5 s where a guard does not answer.
    """
    for answer in policies_at(str(address)):
        try:
            rules = [str(one["rule"] or "all rules") for one in answer["overrides"]]
            overridden = f", overridden: {', '.join(rules)}" if rules else ""
            added = ", ".join(map(str, answer["policy"]["added"]))
            without = f", without its added rules ({added})" if added else ""
            source = f"the policy of the guard of VM {answer['vm']}{overridden}{without}"
            return EffectivePolicy(read_policy(answer["policy"]), source, read_memory(answer["memory"]))
        except (KeyError, TypeError, ValueError):
            continue  # a guard of another version
    return EffectivePolicy(Policy(), "the default policy, since no guard here says that it listens there")
