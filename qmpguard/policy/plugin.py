"""Rules that come from a package of somebody else's: contained, so that a fault in one is a verdict and no more.

A plug-in is a function of a machine and a policy that returns a `Problem` or None, as a built-in rule is. It may read
every fact of the machine; one that was not asked yet is asked for, since reading it raises `Unknown`, which a plug-in
must let pass. It runs in the guard's own thread while the command waits: it must not block.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import cleandoc
from typing import TYPE_CHECKING

from qmpguard.policy.facts import Unknown
from qmpguard.policy.policy import Mode, Rule
from qmpguard.policy.verdict import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.machine import Machine
    from qmpguard.policy.policy import Policy

#: characters of what an exception says that are repeated
MAX_WORDS = 200


class PlugInFailed(Exception):  # noqa: N818  -- a fault of the plug-in, not of our code
    """A plug-in raised an exception, or returned something else than a problem. The text names the plug-in."""


@dataclass(frozen=True, slots=True)
class PlugIn:
    """A plug-in's function. Raises nothing but `Unknown` and `PlugInFailed`."""

    id: str
    function: Callable[[Machine, Policy], object]

    def fails(self, machine: Machine, policy: Policy) -> Problem | None:
        """Return what the plug-in says is wrong with a machine."""
        try:
            found = self.function(machine, policy)
        except Unknown:
            raise
        except BaseException as error:  # an exit too: nothing of a plug-in's ends the guard
            raise PlugInFailed(f"plug-in {self.id} raised {_told(error)}") from error
        if found is None or isinstance(found, Problem):
            return found
        raise PlugInFailed(f"plug-in {self.id} returned {type(found).__name__}, which is no Problem")

    @property
    def rule(self) -> Rule:
        """The plug-in's line in the table of rules."""
        return Rule(self.id, self.fails, Mode.ENFORCE, text=cleandoc(self.function.__doc__ or ""))


def _told(error: BaseException) -> str:
    """Return an exception's kind and words; its words may raise one themselves."""
    try:
        words = str(error)[:MAX_WORDS]
    except BaseException:  # noqa: BLE001  -- whatever a plug-in's own exception does
        words = ""
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
