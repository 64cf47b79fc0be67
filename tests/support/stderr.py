"""A guard as a process of its own, whose standard error is whatever a test gives it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.guarding import TIMEOUT, connected

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator
    from pathlib import Path
    from typing import IO


@asynccontextmanager
async def guard(
    *arguments: str, stderr: int | IO[bytes], stderr_is_closed: bool = False, exit_code: int = 0
) -> AsyncGenerator[Process]:
    """Run a guard until the block ends; SIGTERM must end it then, with an exit code."""
    command = [sys.executable, "-m", "qmpguard", "run", *arguments]
    if stderr_is_closed:
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QMPGUARD_")}
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stderr=stderr, env=environ
    )
    try:
        yield process
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(TIMEOUT):
            assert await process.wait() == exit_code
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def listening(path: Path) -> None:
    """Wait until a guard serves clients there."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                async with connected(path):
                    return
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.02)
