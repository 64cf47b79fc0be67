"""Background tasks that restart after a failure, with an exponential back-off."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any

    from qmpguard.proxy.listening.listener import Listener
    from qmpguard.tasks import Tasks

log = logging.getLogger(__name__)

#: seconds before a failed task restarts: the first delay, and the limit; each delay is twice the last
FIRST_DELAY, MAX_DELAY = 1.0, 60.0
#: seconds of running after which the delay is reset
STABLE_AFTER = 300.0
#: Seconds between two checks of the sockets' files. A check of a thousand takes 4 ms, spread over iterations of the
#: loop.
CHECK_INTERVAL = 2.0
#: files that are checked in one iteration of the event loop
FILES_PER_TURN = 64


async def run_with_restarts(tasks: Tasks, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine until it returns; restart it after each exception. Logs and counts each by the task's name."""
    loop, delay = asyncio.get_running_loop(), FIRST_DELAY
    while True:
        begun = loop.time()
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- a failed task must not affect any other
            tasks.record(name, error)
        else:
            return
        if loop.time() - begun > STABLE_AFTER:
            delay = FIRST_DELAY
        log.warning("task=%s restarts in %g s", name, delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, MAX_DELAY)


async def restore_socket_files(listeners: Callable[[], Iterable[Listener | None]], at_once: asyncio.Event) -> None:
    """Reopen each listener whose socket file was removed, until cancelled; ``at_once`` requests a check now."""
    while True:
        for number, listener in enumerate(list(listeners())):
            if listener is not None:
                listener.restore()
            if number % FILES_PER_TURN == FILES_PER_TURN - 1:
                await asyncio.sleep(0)
        at_once.clear()
        try:
            async with asyncio.timeout(CHECK_INTERVAL):
                await at_once.wait()
        except TimeoutError:
            pass
