"""Groups of tasks with contained faults: a task that raises ends alone, and its exception is logged and counted.

Every task of the process is started here, by a literal name. `tests/test_containment.py` finds the names in the source
and makes each task raise.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any, Self

log = logging.getLogger(__name__)


class Tasks:
    """A group that waits for all its tasks. An exception in one ends neither the group nor the other tasks.

    ``faults`` counts the exceptions by the task's name. ``label`` is the prefix in the log: ``vm=NAME``.
    """

    def __init__(self, label: str = "", faults: Counter[str] | None = None) -> None:
        self.faults: Counter[str] = Counter() if faults is None else faults
        self._label = f"{label} " if label else ""
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._group.__aexit__(kind, error, trace)

    def start(
        self, name: str, work: Coroutine[Any, Any, None], on_fault: Callable[[Exception], None] | None = None
    ) -> asyncio.Task[None]:
        """Run a coroutine as a task of the group.

        ``on_fault`` is called with the coroutine's exception, after that was logged and counted.
        """
        task = self._group.create_task(self._contain(name, work, on_fault), name=name)
        task.add_done_callback(lambda _: work.close())  # needed if it was cancelled before its first step
        return task

    async def _contain(
        self, name: str, work: Coroutine[Any, Any, None], on_fault: Callable[[Exception], None] | None
    ) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 -- it must not reach the other tasks
            self.record(name, error)
            if on_fault is not None:
                self.guard(name, on_fault, error)

    def record(self, name: str, error: Exception) -> None:
        """Log and count an exception, with its trace."""
        self.faults[name] += 1
        log.error("%stask=%s failed: %r", self._label, name, error, exc_info=error)

    def guard(self, name: str, callback: Callable[[Exception], None], error: Exception) -> None:
        """Call ``callback`` with an exception. An exception of the callback is logged and counted too."""
        try:
            callback(error)
        except Exception as second:  # noqa: BLE001 -- as above
            self.record(name, second)
