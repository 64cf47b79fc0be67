"""Following a changed configuration while clients are served: wholly, or not at all."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qmpguard.errors import QmpguardError
from qmpguard.threads import BlockingCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.config import Config
    from qmpguard.daemon.fleet import Changes, Fleet
    from qmpguard.logs.logbook import Logbook as Files

log = logging.getLogger(__name__)

#: seconds that loading may take; what it consists of has limits of its own, which are shorter and say more
LOADING_TIMEOUT = 45.0
#: characters of an error that nobody expected
MAX_FAULT = 300


class Reloads:
    """Reads the configuration again when asked to, and lets the fleet fit it.

    ``load`` raises `QmpguardError` where there is no usable configuration, and may take its time. ``files`` has what
    else a config needs, opened before anything changes. ``follow`` is told of a config that holds from now on.
    ``fault`` is why the last reload failed, empty if it did not.
    """

    def __init__(
        self, load: Callable[[], Config], fleet: Fleet, files: Files, follow: Callable[[Config], None]
    ) -> None:
        self.done = 0
        self.failed = 0
        self.fault = ""
        self._load = load
        self._fleet = fleet
        self._files = files
        self._follow = follow
        self._asked = asyncio.Event()
        self._loading = BlockingCalls("reading the configuration", LOADING_TIMEOUT)
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
            try:
                await self._once()
            except QmpguardError as error:
                self._fail(str(error))
            except Exception as error:  # noqa: BLE001 -- whatever it is: the next reload is to be possible
                self._fail(f"{type(error).__name__}: {error}"[:MAX_FAULT], error)
            end()

    async def _once(self) -> None:
        config = await self._loading.call(self._load)
        changes = await self._change(config)
        self._follow(config)
        self.done += 1
        self.fault = ""
        log.info("reloaded: %s", changes)

    async def _change(self, config: Config) -> Changes:
        """Let files and fleet fit a config, or change nothing and raise `QmpguardError`."""
        prepared = await self._files.prepare(config.log)
        try:
            changes = self._fleet.fit(config.vms)
        except BaseException:
            self._files.discard(prepared)
            raise
        self._files.follow(prepared)
        return changes

    def _fail(self, fault: str, error: Exception | None = None) -> None:
        self.failed += 1
        self.fault = fault
        log.error("reload failed, nothing has changed: %s", fault, exc_info=error)

    def _remark(self) -> str:
        return f"the last reload failed and changed nothing: {self.fault}" if self.fault else ""
