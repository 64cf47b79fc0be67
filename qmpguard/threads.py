"""Calls that may block for ever (a hung file system, name service or DNS), each in its own thread, with a timeout.

The threads are daemons: a hung one delays neither the process's exit nor the next call. `asyncio.to_thread` is not
suitable, since its threads are joined when the loop closes.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from qmpguard.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

T = TypeVar("T")

#: hung threads at the same time, for one kind of call
MAX_HUNG = 4


class BlockingCalls:
    """Blocking calls of one kind. ``what`` is its name in errors; ``timeout`` is in seconds, for each call."""

    def __init__(self, what: str, timeout: float, limit: int = MAX_HUNG) -> None:
        self._what = what
        self._timeout = timeout
        self._limit = limit
        self._running: set[Future[Any]] = set()  # used by several threads: its methods are atomic

    async def call(self, work: Callable[[], T]) -> T:
        """Return the result of a call. Raises its exception, or `UnavailableError` after the timeout."""
        future = asyncio.wrap_future(self._begin(work))
        try:
            async with asyncio.timeout(self._timeout):
                return await future
        except TimeoutError:
            raise self._too_long() from None

    def call_now(self, work: Callable[[], T]) -> T:
        """Return the result of a call, for a caller without an event loop. Raises as `call` does."""
        try:
            return self._begin(work).result(self._timeout)
        except TimeoutError:
            raise self._too_long() from None

    def _begin(self, work: Callable[[], T]) -> Future[T]:
        if len(self._running) >= self._limit:
            raise UnavailableError(f"{self._what}: {len(self._running)} earlier attempts still hang")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        thread = threading.Thread(target=self._run, args=(work, future), name=self._what, daemon=True)
        self._running.add(future)
        try:
            thread.start()
        except RuntimeError as error:  # the limit of threads is reached
            self._running.discard(future)
            raise UnavailableError(f"{self._what}: {error}") from error
        return future

    def _run(self, work: Callable[[], T], future: Future[T]) -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 -- passed on to the caller
            self._running.discard(future)
            future.set_exception(error)
        else:
            self._running.discard(future)
            future.set_result(result)

    def _too_long(self) -> UnavailableError:
        return UnavailableError(f"{self._what} takes longer than {self._timeout:g} s")
