"""Following a changed configuration while clients are served: wholly, or not at all."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qmpguard.errors import QmpguardError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.config import Config
    from qmpguard.daemon.fleet import Fleet

log = logging.getLogger(__name__)


class Reloads:
    """Reads the configuration again when asked to, and lets the fleet fit it.

    ``load`` raises `QmpguardError` where there is no usable configuration, and may take its time. ``follow`` is told
    of a config that holds from now on. ``fault`` is why the last reload failed, empty if it did not.
    """

    def __init__(self, load: Callable[[], Config], fleet: Fleet, follow: Callable[[Config], None]) -> None:
        self.done = 0
        self.failed = 0
        self.fault = ""
        self._load = load
        self._fleet = fleet
        self._follow = follow
        self._asked = asyncio.Event()
        fleet.remarks.append(self._remark)

    def ask(self) -> None:
        """Reload soon; asked several times before it begins, once."""
        self._asked.set()

    async def run(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Reload whenever asked to, until cancelled; ``begin`` and ``end`` are called around each."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            begin()
            await self._once()
            end()

    async def _once(self) -> None:
        try:
            config = await asyncio.to_thread(self._load)  # looking up users may ask a server
            changes = self._fleet.fit(config.vms)
        except QmpguardError as error:
            self.failed += 1
            self.fault = str(error)
            log.error("reload failed, nothing has changed: %s", error)
            return
        self._follow(config)
        self.done += 1
        self.fault = ""
        log.info("reloaded: %s", changes)

    def _remark(self) -> str:
        return f"the last reload failed and changed nothing: {self.fault}" if self.fault else ""
