"""Which dangerous capabilities the last migration left on. QEMU does not tell, so the guard remembers.

QEMU keeps a capability after the migration that used it. One that was switched on since is meant for the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.migration import DANGEROUS, OVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpguard.policy.facts import Facts


class StaleCapabilities:
    """The capabilities that were on in a migration, as far as it was seen, and were not switched on since."""

    def __init__(self) -> None:
        self.left_on: frozenset[str] = frozenset()
        self._on: frozenset[str] = frozenset()  # when it was last looked

    def saw(self, facts: Facts) -> None:
        """Take a look at QEMU: what is on while a migration runs is used by it; what is off is left over no more."""
        if facts.capabilities is None:
            return
        self._on = facts.capabilities & DANGEROUS
        self.left_on &= self._on
        if _under_way(facts):
            self.left_on = self._on

    def started(self) -> None:
        """Called when QEMU has accepted the start of a migration, with the capabilities that were last seen."""
        self.left_on = self._on

    def switched_on(self, names: Iterable[str]) -> None:
        """Called when a client has switched capabilities on."""
        on = DANGEROUS.intersection(names)
        self._on |= on
        self.left_on -= on


def _under_way(facts: Facts) -> bool:
    """Say whether a migration runs in either direction, or is to arrive; only what was asked counts."""
    status = facts.migration.status if facts.migration else "none"
    return facts.runstate == "inmigrate" or status not in OVER | {"none"}
