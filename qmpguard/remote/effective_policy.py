"""By which policy a live VM is judged, and what its guard remembers of it: as the guard says, or else by default."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qmpguard.policy.facts import Facts
from qmpguard.policy.policy import Policy
from qmpguard.policy.portrait import read_memory, read_policy
from qmpguard.remote.consoles import standing

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.address import Address


@dataclass(frozen=True, slots=True)
class Standing:
    """A policy, whose it is in words, and facts that only a guard remembers."""

    policy: Policy
    whose: str
    memory: Facts = Facts()  # noqa: RUF009 -- it is frozen

    def by(self, policy: Policy | None, whose: str) -> Standing:
        """Return it with another policy, if there is one; what the guard remembers stays."""
        return self if policy is None else replace(self, policy=policy, whose=whose)

    def changed(self, change: Callable[[Policy], Policy]) -> Standing:
        """Return it with what options change in the policy, and say so."""
        policy = change(self.policy)
        return (
            self if policy == self.policy else replace(self, policy=policy, whose=f"{self.whose}, changed by options")
        )

    @property
    def words(self) -> str:
        """Whose policy it is, with its mode and profile."""
        return f"{self.whose}: mode {self.policy.mode.value}, profile {self.policy.profile.value}"


def standing_of(address: Address) -> Standing:
    """Return how the VM at an address is judged. Blocks for some milliseconds, or 5 s where a guard hangs."""
    for told in standing(str(address)):
        try:
            rules = [str(one["rule"] or "all rules") for one in told["overrides"]]
            overridden = f", overridden: {', '.join(rules)}" if rules else ""
            added = ", ".join(map(str, told["policy"]["added"]))
            without = f", without its added rules ({added})" if added else ""
            whose = f"the policy of the guard of VM {told['vm']}{overridden}{without}"
            return Standing(read_policy(told["policy"]), whose, read_memory(told["memory"]))
        except (KeyError, TypeError, ValueError):
            continue  # a guard of another version
    return Standing(Policy(), "the default policy, since no guard here says that it listens there")
