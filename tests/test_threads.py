"""A call that hangs holds up its caller for the timeout only, and neither the next call nor the process's end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from qmpguard.errors import UnavailableError
from qmpguard.threads import BlockingCalls


async def test_a_result_and_an_exception_come_back() -> None:
    calls = BlockingCalls("counting", 10.0)
    assert await calls.call(lambda: 1 + 1) == 2
    assert calls.call_now(lambda: 1 + 1) == 2
    with pytest.raises(ZeroDivisionError):
        await calls.call(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        calls.call_now(lambda: 1 // 0)


async def test_what_hangs_is_left_behind_and_only_so_many_may_hang() -> None:
    calls, go_on = BlockingCalls("reading", 0.01, 2), threading.Event()
    with pytest.raises(UnavailableError, match=r"reading takes longer than 0\.01 s"):
        await calls.call(go_on.wait)
    with pytest.raises(UnavailableError, match=r"reading takes longer than 0\.01 s"):
        calls.call_now(go_on.wait)
    with pytest.raises(UnavailableError, match="reading: 2 earlier attempts still hang"):
        await calls.call(go_on.wait)
    go_on.set()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await BlockingCalls.call(calls, lambda: 3) == 3
                return
            except UnavailableError:
                await asyncio.sleep(0.005)


def test_a_process_ends_while_a_call_hangs() -> None:
    script = """
import asyncio, threading
from qmpguard.threads import BlockingCalls
async def main():
    try:
        await BlockingCalls("waiting", 0.01).call(threading.Event().wait)
    except Exception as error:
        print(error)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "waiting takes longer than 0.01 s\n"
