"""Fake QEMUs that do next to nothing: `python -m benchmarks.idle_qemus SOCKET...`, until killed.

Says `ready` on standard output when all of them listen.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.fakes.qemu import FakeQemu


async def idle(paths: list[Path]) -> None:
    """Be there."""
    async with AsyncExitStack() as stack:
        for path in paths:
            await stack.enter_async_context(FakeQemu(path))
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(idle([Path(name) for name in sys.argv[1:]]))
