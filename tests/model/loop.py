"""An event loop that runs when it is told to: one turn at a time, without sockets, threads and a clock."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

#: turns in which everything must come to rest
MAX_TURNS = 1000


class SteppingLoop:
    """What asyncio's tasks, futures, locks and timeouts need of a loop. ``now`` moves only in `expire`.

    Between two turns asyncio looks at its sockets. So whatever a socket brings, and the next turn, can come in any
    order; a turn runs exactly the callbacks that were ready at its beginning.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: deque[asyncio.Handle] = deque()
        self.timers: list[asyncio.TimerHandle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.errors: list[str] = []
        self._loop = cast("asyncio.AbstractEventLoop", self)  # as far as tasks, futures and handles need it

    @contextmanager
    def running(self) -> Generator[None]:
        """Be the running loop of this thread for a while."""
        asyncio._set_running_loop(self._loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def turn(self) -> None:
        """Run what is ready now."""
        for _ in range(len(self.ready)):
            handle = self.ready.popleft()
            if not handle.cancelled():
                handle._run()
        self.tasks = [task for task in self.tasks if not task.done()]

    def rest(self) -> None:
        """Run until nothing is ready."""
        for _ in range(MAX_TURNS):
            if not self.ready:
                return
            self.turn()
        self.errors.append(f"it does not come to rest: {self.ready}")

    def expire(self, name: str) -> None:
        """Let the time pass until the earliest timer whose callback has this name; timers of other names are late."""
        named = sorted((timer for timer in self.timers if is_named(timer, name)), key=asyncio.TimerHandle.when)
        self.now = named[0].when()
        for timer in named:
            if timer.when() <= self.now:
                self.timers.remove(timer)
                self.ready.append(timer)

    def awaits(self, name: str) -> bool:
        """Return whether there is a timer whose callback has this name."""
        return any(is_named(timer, name) for timer in self.timers)

    # what asyncio calls

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._loop, context)
        self.ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self._loop, context)
        if when > self.now:
            self.timers.append(timer)
        else:
            self.ready.append(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle in self.timers:
            self.timers.remove(handle)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._loop)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self._loop, name=name or "task", context=context)
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False


def is_named(timer: asyncio.TimerHandle, name: str) -> bool:
    return getattr(timer._callback, "__qualname__", "") == name  # type: ignore[attr-defined]
