"""Overrides: a rule of one VM, or all of them, warns instead of refusing, for a stated time."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from qmpguard.policy.relax import relaxed
from qmpguard.record import Override

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.policy import Policy
    from qmpguard.record import Peer

log = logging.getLogger(__name__)


class Overrides:
    """The active overrides. ``follow`` is called with each new policy, ``record`` with each begin and end."""

    def __init__(
        self, vm: str, policy: Policy, follow: Callable[[Policy], None], record: Callable[[Override], object]
    ) -> None:
        self.base = policy
        self._vm = vm
        self._follow = follow
        self._record = record
        self._active: dict[str | None, tuple[Override, asyncio.TimerHandle]] = {}

    @property
    def policy(self) -> Policy:
        """The effective policy: ``base``, relaxed by the active overrides."""
        return relaxed(self.base, self._active)

    @property
    def active(self) -> tuple[Override, ...]:
        """The active overrides, in the order in which they began."""
        return tuple(override for override, _ in self._active.values())

    def begin(self, rule: str | None, seconds: float, reason: str, peer: Peer) -> Override:
        """Let a rule warn for ``seconds``; None: all rules. It replaces an active override of the same rule."""
        self._drop(rule)
        override = Override(True, rule, time.time() + seconds, reason, peer)
        self._active[rule] = override, asyncio.get_running_loop().call_later(seconds, self.end, rule)
        self._tell(override)
        return override

    def end(self, rule: str | None) -> bool:
        """End an override; return whether there was one."""
        override = self._drop(rule)
        if override is not None:
            self._tell(replace(override, begun=False))
        return override is not None

    def close(self) -> None:
        """End every override."""
        for rule in tuple(self._active):
            self.end(rule)

    def _drop(self, rule: str | None) -> Override | None:
        override, timer = self._active.pop(rule, (None, None))
        if timer is not None:
            timer.cancel()
        return override

    def _tell(self, override: Override) -> None:
        self._follow(self.policy)
        self._record(override)
        log.warning("vm=%s %s", self._vm, override)
