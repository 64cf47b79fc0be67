"""A rule's line in the table: its id, what it looks at, its mode in each profile, and its documentation for users."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import cleandoc
from typing import TYPE_CHECKING

from qmpguard.policy.policy import Mode, Policy, Profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.machine import Machine
    from qmpguard.policy.verdict import Problem


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule's line in the table: its id, its function, and its mode in each profile.

    ``text`` is the documentation where the function has none of its own.
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
        """Return the mode that holds in a profile where nothing is configured."""
        return self.strict if profile is Profile.STRICT else self.standard

    def mode(self, policy: Policy) -> Mode:
        """Return the effective mode: the weaker of the global one and the rule's own."""
        return Mode.weaker(policy.mode, policy.rules.get(self.id, self.default(policy.profile)))
