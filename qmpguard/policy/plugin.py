"""Rules from other packages. They are contained: an exception in one is a verdict, and nothing more.

A plug-in is a function of a machine and a policy that returns a `Problem` or None, like a built-in rule. It may read
every fact of the machine. Reading a fact that was not queried yet raises `Unknown`, which a plug-in must not catch: the
survey queries the fact and calls the plug-in again. It runs in the event loop while the command waits, so it must not
block.
"""

from __future__ import annotations

from dataclasses import dataclass
from inspect import cleandoc
from typing import TYPE_CHECKING

from qmpguard.policy.facts import Unknown
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Rule
from qmpguard.policy.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.machine import Machine
    from qmpguard.policy.policy import Policy

#: characters of an exception's text in a verdict
MAX_ERROR = 200


class PlugInFailed(Exception):  # noqa: N818  -- a fault of the plug-in, not of our code
    """A plug-in raised an exception, or returned neither a problem nor None. The text names the plug-in."""


@dataclass(frozen=True, slots=True)
class PlugIn:
    """A plug-in's function. Raises nothing but `Unknown` and `PlugInFailed`."""

    id: str
    function: Callable[[Machine, Policy], object]

    def fails(self, machine: Machine, policy: Policy) -> Problem | None:
        """Return the plug-in's problem with a machine; None where it has none."""
        try:
            result = self.function(machine, policy)
        except Unknown:
            raise
        except BaseException as error:  # SystemExit too: no exception of a plug-in may end the guard
            raise PlugInFailed(f"plug-in {self.id} raised {_text_of(error)}") from error
        if result is None or isinstance(result, Problem):
            return result
        raise PlugInFailed(f"plug-in {self.id} returned {type(result).__name__}, which is no Problem")

    @property
    def rule(self) -> Rule:
        """The plug-in as a rule."""
        return Rule(self.id, self.fails, Mode.ENFORCE, text=cleandoc(self.function.__doc__ or ""))


def _text_of(error: BaseException) -> str:
    """Return an exception's type and text. Its ``__str__`` may raise."""
    try:
        text = str(error)[:MAX_ERROR]
    except BaseException:  # noqa: BLE001  -- whatever a plug-in's own exception does
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
