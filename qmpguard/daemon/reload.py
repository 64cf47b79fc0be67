"""Reloading the configuration while clients are served: a reload is applied completely or not at all."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from qmpguard.errors import QmpguardError
from qmpguard.threads import BlockingCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.config import Config
    from qmpguard.daemon.supervisor import Changes, Supervisor
    from qmpguard.logs.log_files import LogFiles

log = logging.getLogger(__name__)

#: seconds for loading; its steps have shorter timeouts of their own, with more specific errors
LOAD_TIMEOUT = 45.0
#: characters of an unexpected error
MAX_FAULT = 300


class Reloads:
    """Reads the configuration again on request, and applies it to the supervisor and the log files.

    ``load`` returns a config or raises `QmpguardError`; it may block. ``files`` are opened before anything changes.
    ``follow`` is called with a config that was applied. ``fault`` is the error of the last reload; empty: it succeeded.
    """

    def __init__(
        self, load: Callable[[], Config], supervisor: Supervisor, files: LogFiles, follow: Callable[[Config], None]
    ) -> None:
        self.done = 0
        self.failed = 0
        self.fault = ""
        self._load = load
        self._supervisor = supervisor
        self._files = files
        self._follow = follow
        self._asked = asyncio.Event()
        self._loading = BlockingCalls("reading the configuration", LOAD_TIMEOUT)
        supervisor.remarks.append(self._remark)

    def ask(self) -> None:
        """Request a reload. Requests that arrive before it begins are one."""
        self._asked.set()

    async def run(self, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Reload on each request, until cancelled; ``begin`` and ``end`` are called around each reload."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            begin()
            try:
                await self._once()
            except QmpguardError as error:
                self._fail(str(error))
            except Exception as error:  # noqa: BLE001 -- the next reload must stay possible
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
        """Apply a config to files and supervisor. Raises `QmpguardError`; then nothing has changed."""
        prepared = await self._files.prepare(config.log)
        try:
            changes = self._supervisor.apply(config.vms)
        except BaseException:
            self._files.discard(prepared)
            raise
        self._files.apply(prepared)
        return changes

    def _fail(self, fault: str, error: Exception | None = None) -> None:
        self.failed += 1
        self.fault = fault
        log.error("reload failed, nothing has changed: %s", fault, exc_info=error)

    def _remark(self) -> str:
        return f"the last reload failed and changed nothing: {self.fault}" if self.fault else ""
