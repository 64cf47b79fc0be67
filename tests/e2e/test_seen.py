"""What is told of a real QEMU: that it is stopped, that it goes on; and by the program as it is run."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest

from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.proxy.qemu import heartbeat
from tests.e2e.test_reload import running, table
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, connected, guarding
from tests.support.visiting import AdminClient, visiting

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.qemu

PATHS = ("/healthz", "/metrics", "/api/v1/vms", "/api/v1/vms/test", "/api/v1/decisions", "/api/v1/rules", "/")


async def until(visitor: AdminClient, status: int) -> list[str]:
    """Wait until /readyz answers so, and return its reasons."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            answer, body = await visitor.get("/readyz")
            if answer == status:
                reasons: list[str] = body["reasons"]
                return reasons
            await asyncio.sleep(0.02)


async def test_a_stopped_qemu_is_named_and_delays_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.2)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_TIMEOUT", 0.5)
    async with (
        Qemu(system_qemu(), tmp_path) as qemu,
        guarding(qemu.monitors[0]) as guard,
        visiting(tmp_path, guard) as visitor,
        connected(tmp_path / "guard.sock") as client,
    ):
        assert await until(visitor, 200) == []
        qemu.process.send_signal(signal.SIGSTOP)
        client.send({"execute": "query-status"})
        assert await until(visitor, 503) == ["test: QEMU does not answer: it is stopped or hangs"]
        for path in PATHS:
            assert (await visitor.get(path))[0] == 200
        assert (await visitor.get("/api/v1/vms"))[1]["vms"][0]["state"] == "silent"
        qemu.process.send_signal(signal.SIGCONT)
        assert "return" in await client.receive()
        assert await until(visitor, 200) == []


async def test_the_program_serves_it_and_leaves_no_socket_behind(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu:
        admin = tmp_path / "admin.sock"
        ends = ("--qemu", str(qemu.monitors[0]), "--listen", str(tmp_path / "guard.sock"), "--admin", str(admin))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-W", "error", "-m", "qmpguard", "run", *ends, "--name", "web1"),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            async with asyncio.timeout(TIMEOUT):
                while b"ready: clients at" not in await process.stderr.readline():
                    pass
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(admin))) as http:
                visitor = AdminClient(http, "http://localhost")
                assert await until(visitor, 200) == []
                assert (await visitor.get("/api/v1/vms"))[1]["vms"][0]["name"] == "web1"
            process.terminate()
            assert (await process.communicate())[1].decode().count("stopping") == 1
            assert process.returncode == 0
        finally:
            if process.returncode is None:
                process.kill()
        assert not admin.exists()


async def test_a_reload_is_seen_at_once_and_the_interface_itself_stays_as_it_was(tmp_path: Path) -> None:
    config, admin = tmp_path / "c.toml", tmp_path / "admin.sock"
    async with FakeQemu(tmp_path / "q1") as one, FakeQemu(tmp_path / "q2") as two:
        head = f'[admin]\nlisten = "{admin}"\n'
        config.write_text(head + table("one", one.path))
        async with running(config, "-X", "dev") as guard:
            await guard.says(" ready: ")
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(admin))) as http:
                visitor = AdminClient(http, "http://localhost")
                async with visitor.stream("?kinds=link") as stream:
                    assert (await stream.next("vms"))["names"] == ["one"]
                    config.write_text(head.replace("admin.sock", "other.sock") + table("two", two.path))
                    assert "keep the settings" in await guard.reload("the admin interface")
                    assert (await stream.next("vms"))["names"] == ["two"]
                    assert [vm["name"] for vm in (await visitor.get("/api/v1/vms"))[1]["vms"]] == ["two"]
