"""Processes that a test has started: none is left behind, however the test ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator

_STARTED: list[Process] = []


async def start_process(*words: str, **options: Any) -> Process:
    """Start a process that is killed at the end of the test if it still runs then."""
    process = await asyncio.create_subprocess_exec(*words, **options)
    _STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
async def _none_left() -> AsyncGenerator[None]:
    yield
    while _STARTED:
        process = _STARTED.pop()
        if process.returncode is None:
            process.kill()
            await process.communicate()
