"""Work that lasts as long as the process: begun anew, a little later, when it fails."""

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

#: seconds until work that has failed is begun anew: the first time, and at most; doubled each time
SOON, LATE = 1.0, 60.0
#: seconds after which a failure has nothing to do with the one before
LONG = 300.0
#: Seconds between two looks at whether the sockets' files are still there. A look at a thousand takes 4 ms, spread over
#: turns of the loop: a five-hundredth of the time.
EVERY = 2.0
#: files that are looked at in a turn
AT_ONCE = 64


async def lasting(tasks: Tasks, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do work until it ends by itself, however often it fails. Each failure is logged and counted by its name."""
    loop, delay = asyncio.get_running_loop(), SOON
    while True:
        begun = loop.time()
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- whatever it is: nothing else may notice
            tasks.record(name, error)
        else:
            return
        if loop.time() - begun > LONG:
            delay = SOON
        log.warning("task=%s is started anew in %g s", name, delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, LATE)


async def keep_files(listeners: Callable[[], Iterable[Listener | None]], at_once: asyncio.Event) -> None:
    """Listen anew wherever a socket's file was removed, until cancelled; ``at_once`` asks for a look now."""
    while True:
        for number, listener in enumerate(list(listeners())):
            if listener is not None:
                listener.restore()
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        at_once.clear()
        try:
            async with asyncio.timeout(EVERY):
                await at_once.wait()
        except TimeoutError:
            pass
