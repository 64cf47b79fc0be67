"""An event loop in a thread of its own, in which fixtures hold what is asynchronous: tests need no loop themselves."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

_T = TypeVar("_T")
#: seconds for something to begin or to end
LIMIT = 60.0


class Background:
    """A running event loop. `close` ends it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmpguard fixtures", daemon=True)
        self._thread.start()

    @contextmanager
    def holding(self, manager: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
        """Enter an asynchronous context manager, and leave it at the end. Raises what it raises."""
        begun: Future[_T] = Future()
        stop = asyncio.Event()
        ended = asyncio.run_coroutine_threadsafe(_hold(manager, begun, stop), self._loop)
        try:
            yield begun.result(LIMIT)
        finally:
            self._loop.call_soon_threadsafe(stop.set)
            ended.result(LIMIT)

    def call(self, function: Callable[[], _T]) -> _T:
        """Return what a function returns that is called in the loop."""

        async def called() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(LIMIT)

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT)
        self._loop.close()


async def _hold(manager: AbstractAsyncContextManager[_T], begun: Future[_T], stop: asyncio.Event) -> None:
    """Hold a context manager; it is entered and left in one task, as task groups demand."""
    try:
        async with manager as value:
            begun.set_result(value)
            await stop.wait()
    except BaseException as error:
        if begun.done():
            raise
        begun.set_exception(error)
