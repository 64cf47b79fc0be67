"""The heartbeat: QEMU is asked what it answers even while its main loop is held, so busy and gone can be told apart."""

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
    """Whether a VM's QEMU answers out-of-band."""

    def __init__(self, name: str, revived: Callable[[], None]) -> None:
        """Begin with a QEMU that answers; ``revived`` is called when it does again after it did not."""
        self.alive = True
        self._name = name
        self._revived = revived

    async def run(self, control: Control) -> None:
        """Ask until cancelled. Only for a QEMU that offers out-of-band."""
        self.alive = True
        while True:
            await asyncio.sleep(INTERVAL)
            alive = False
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_TIMEOUT):
                    alive = await control.answers_out_of_band()
            if alive is not self.alive:
                log.warning("vm=%s heartbeat=%s", self._name, "ok" if alive else "none")
                self.alive = alive
                if alive:
                    self._revived()
