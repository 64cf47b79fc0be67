"""The heartbeat: a question that QEMU answers even while its main loop is held, so that busy is not taken for gone."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.proxy.qemu.control import Control

log = logging.getLogger(__name__)

#: seconds between heartbeats, and for the answer to one. Their sum is how long a QEMU that was stopped can pass for
#: alive; it must stay below the 20 s that the admin interface promises.
INTERVAL, HEARTBEAT_TIMEOUT = 10.0, 5.0


class Heartbeat:
    """Asks a VM's QEMU out-of-band. ``on_change`` is called with whether QEMU answers, each time that has changed."""

    def __init__(self, vm: str, on_change: Callable[[bool], None]) -> None:
        self._vm = vm
        self._on_change = on_change

    async def run(self, control: Control) -> None:
        """Ask until cancelled, beginning with a QEMU that answers. Only for a QEMU that offers out-of-band."""
        before = True
        while True:
            await asyncio.sleep(INTERVAL)
            alive = False
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_TIMEOUT):
                    alive = await control.answers_out_of_band()
            if alive is not before:
                before = alive
                log.warning("vm=%s heartbeat=%s", self._vm, "ok" if alive else "none")
                self._on_change(alive)
