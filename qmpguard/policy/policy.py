"""One VM's policy: modes, profiles, and the rules to which they apply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import cleandoc
from typing import TYPE_CHECKING

from qmpguard.policy.mode import Mode, Profile

if TYPE_CHECKING:
    from qmpguard.policy.combination import Combination
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.problem import Problem


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its id, its function, and its default mode in each profile.

    ``text`` is the documentation; empty: the function's docstring is.
    """

    id: str
    fails: Callable[[Machine, Policy], Problem | None]
    standard: Mode
    strict: Mode = Mode.ENFORCE
    text: str = ""

    @property
    def summary(self) -> str:
        """The first line of the rule's documentation."""
        return self.documentation.partition("\n")[0]

    @property
    def documentation(self) -> str:
        """The rule's documentation for users."""
        return self.text or cleandoc(self.fails.__doc__ or "")

    def default(self, profile: Profile) -> Mode:
        """Return the default mode in a profile."""
        return self.strict if profile is Profile.STRICT else self.standard

    def mode(self, policy: Policy) -> Mode:
        """Return the effective mode: the weaker of the global one and the rule's own."""
        own = policy.rules.get(self.id) or self.default(policy.profile)
        return own if policy.mode is Mode.ENFORCE else Mode.weaker(policy.mode, own)


def as_rule(row: Combination) -> Rule:
    """Return a combination as a rule."""
    return Rule(row.id, row.fails, row.standard, row.strict, row.text or row.summary)


@dataclass(frozen=True, slots=True)
class Policy:
    """One VM's policy: the profile, the global mode, the rules' own modes, and the types that count as VFIO.

    ``extra_types`` are QOM types that count as VFIO beside those with vfio in their names. ``allow_failover_primary``
    exempts every device whose standby is present from the rules about VFIO devices. ``combinations`` and
    ``plugins`` are rules beside the built-in ones.
    """

    mode: Mode = Mode.ENFORCE
    profile: Profile = Profile.STANDARD
    rules: Mapping[str, Mode] = field(default_factory=dict)
    extra_types: frozenset[str] = frozenset()
    allow_failover_primary: bool = False
    combinations: tuple[Combination, ...] = ()
    plugins: tuple[Rule, ...] = ()

    @property
    def strict(self) -> bool:
        """Say whether the profile is strict."""
        return self.profile is Profile.STRICT
