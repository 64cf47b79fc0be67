"""The system's own QEMU behind the guard: what a user does with it, and what it does to the guard."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from tests.support.guarding import TIMEOUT, connected, guarding, qmp_client
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.testing.machines import GuardedQemu

pytestmark = pytest.mark.qemu


async def test_the_guard_runs_as_a_process_says_ready_and_ends_cleanly(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu:
        socket = tmp_path / "guard.sock"
        for number in (signal.SIGTERM, signal.SIGINT):
            process = await start_process(
                *(sys.executable, "-X", "dev", "-W", "error", "-m", "qmpguard", "run"),
                *("--qemu", str(qemu.monitors[0]), "--listen", f"unix:{socket}", "--log-level", "warning"),
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stderr is not None
            async with asyncio.timeout(TIMEOUT):
                while " took " in (line := (await process.stderr.readline()).decode()):
                    pass  # asyncio's debug mode tells of each callback of 0.1 s, which a busy machine makes
                assert " ready: clients at unix:" in line
                async with connected(socket) as qmp:
                    assert (await qmp.ask("query-status", id=[1, None]))["id"] == [1, None]
                process.send_signal(number)
                rest = (await process.stderr.read()).decode()
                assert await process.wait() == 0
            assert "Traceback" not in rest
            assert "Warning" not in rest
            assert not socket.exists()


async def test_requests_without_newlines_are_answered(guarded_qemu: GuardedQemu) -> None:
    async with connected(guarded_qemu.path, negotiate=False) as client:
        client.raw(b'{"execute":"qmp_capabilities"}{"execute":"query-status","id":[1,null]}')
        assert "QMP" in await client.receive()
        assert await client.receive() == {"return": {}}
        assert (await client.receive())["id"] == [1, None]


async def test_a_killed_qemu_closes_its_clients_and_a_new_one_is_served(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu, guarding(qemu.monitors[0]):
        async with connected(tmp_path / "guard.sock") as qmp:
            qmp.send({"execute": "query-qmp-schema"})
            qemu.kill()
            assert await qmp.closed()
        async with Qemu(system_qemu(), tmp_path), qmp_client(tmp_path / "guard.sock") as client:
            assert await client.execute("query-name") == {}


@pytest.mark.qemu_options(monitors=2)
async def test_a_big_reply_is_passed_on_whole(guarded_qemu: GuardedQemu) -> None:
    async with connected(guarded_qemu.qemu.others[0]) as direct, connected(guarded_qemu.path) as through:
        for client in (direct, through):
            client.send({"execute": "query-qmp-schema", "id": "schema"})
        assert await direct.line() == await through.line()


async def test_events_come_before_the_reply_that_follows_them(guarded_qemu: GuardedQemu) -> None:
    async with connected(guarded_qemu.path) as qmp, connected(guarded_qemu.path) as other:
        qmp.send({"execute": "stop", "id": 1}, {"execute": "cont", "id": 2})
        seen = [await qmp.receive() for _ in range(4)]
        assert [m.get("event") or m["id"] for m in seen] == ["STOP", 1, "RESUME", 2]
        assert [(await other.receive())["event"] for _ in range(2)] == ["STOP", "RESUME"]


def test_a_second_negotiation_is_answered_by_qemu(guarded_qemu: GuardedQemu) -> None:
    reply = guarded_qemu.execute("qmp_capabilities")
    assert reply["error"]["desc"] == "Capabilities negotiation is already complete, command ignored"


@pytest.mark.parametrize(
    "junk", [b"\0\xff" * 1000, b'{"execute": ', b'"' + b"x" * (6 << 20), b"[" * 2000 + b"]" * 2000, b"{'a':1,}"]
)
async def test_junk_is_answered_or_cut_off_and_the_next_client_is_served(
    guarded_qemu: GuardedQemu, junk: bytes
) -> None:
    async with connected(guarded_qemu.path) as qmp:
        qmp.raw(junk)
        qmp.writer.write_eof()
        assert await qmp.closed()
    async with qmp_client(guarded_qemu.path) as client:
        assert await client.execute("query-name") == {}
