"""Stale capabilities: dangerous capabilities that are still on after the migration that used them.

QEMU keeps them on and does not report their age, so the guard remembers them. A capability that was switched on since
is meant for the next migration, and is not stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.migration import DANGEROUS, OVER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpguard.policy.facts import Facts


class StaleCapabilities:
    """The capabilities that were on in the last migration, as far as the guard saw it, and not switched on since."""

    def __init__(self) -> None:
        self.left_on: frozenset[str] = frozenset()
        self._on: frozenset[str] = frozenset()  # at the last survey

    def saw(self, facts: Facts) -> None:
        """Called after each survey.

        A running migration uses the capabilities that are on; one that is off is not stale.
        """
        if facts.capabilities is None:
            return
        self._on = facts.capabilities & DANGEROUS
        self.left_on &= self._on
        if _under_way(facts):
            self.left_on = self._on

    def started(self) -> None:
        """Called when QEMU has accepted the start of a migration. It uses the capabilities of the last survey."""
        self.left_on = self._on

    def switched_on(self, names: Iterable[str]) -> None:
        """Called when a client has switched capabilities on."""
        on = DANGEROUS.intersection(names)
        self._on |= on
        self.left_on -= on


def _under_way(facts: Facts) -> bool:
    """Say whether a migration runs in either direction, or QEMU waits for one. A missing fact counts as no."""
    status = facts.migration.status if facts.migration else "none"
    return facts.runstate == "inmigrate" or status not in OVER | {"none"}
