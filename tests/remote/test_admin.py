"""The commands that visit the admin interface: `status`, `tail`, `healthcheck`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from qmpguard.cli import main
from qmpguard.errors import UnavailableError
from qmpguard.record import Peer
from qmpguard.remote.admin import AdminClient
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, assert_refused, capabilities, connected, eventually, guarding
from tests.support.visiting import TOKEN, visiting, visiting_by_tcp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.daemon.guard import GuardedVm

POSTCOPY = capabilities(postcopy_ram=True)


@asynccontextmanager
async def guard_with_admin(tmp_path: Path) -> AsyncGenerator[tuple[FakeQemu, GuardedVm, str]]:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard):
        qemu.devices["gpu0"] = "vfio-pci"
        yield qemu, guard, str(tmp_path / "admin.sock")


async def run(*arguments: str) -> int:
    async with asyncio.timeout(TIMEOUT):
        return await asyncio.to_thread(main, arguments)


async def test_a_guard_that_lives_passes_the_health_check_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with guard_with_admin(tmp_path) as (_, _, admin):
        assert await run("healthcheck", admin) == 0
    assert capsys.readouterr() == ("", "")
    assert await run("healthcheck", admin) == 69
    assert "No such file or directory" in capsys.readouterr().err
    assert await run("healthcheck", "") == 2


async def test_one_without_its_qemu_lives_but_is_not_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with guard_with_admin(tmp_path) as (qemu, guard, admin):
        assert await run("healthcheck", "--ready", admin) == 0
        assert capsys.readouterr() == ("", "")
        await qemu.stop()
        await eventually(lambda: guard.vm.link is None)
        assert await run("healthcheck", admin) == 0
        assert await run("healthcheck", "--ready", admin) == 1
        out, err = capsys.readouterr()  # the reason is that of the moment: it has closed, or nothing is there yet
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("not ready: test: no link to QEMU: ")


async def test_one_that_does_not_answer_fails_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmpguard.remote.admin.ANSWER_TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        assert await run("healthcheck", str(tmp_path / "s")) == 69


def test_a_health_check_loads_little() -> None:
    """Its cost is what it loads: neither asyncio, nor aiohttp, nor an HTTP client."""
    code = "import sys; from qmpguard.cli import main; main(['healthcheck', '/nowhere']); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(told.stdout.split())
    assert not loaded & {
        "asyncio",
        "aiohttp",
        "http",
        "ssl",
        "logging",
        "qemu",
        "qmpguard.daemon.serve",
        "qmpguard.config",
    }


async def test_the_status_is_a_table_and_what_should_be_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with guard_with_admin(tmp_path) as (qemu, guard, admin), connected(tmp_path / "guard.sock") as qmp:
        assert_refused(await qmp.ask("migrate-set-capabilities", POSTCOPY), "vfio-postcopy")
        guard.vm.overrides.begin("vfio-postcopy", 60, "ticket 7", Peer(0))
        assert await run("status", admin) == 0
        head, row, note = capsys.readouterr().out.splitlines()
        assert head.split() == ["VM", "STATE", "QEMU", "CLIENTS", "REFUSED", "WARNED", "MODE"]
        assert row.split() == ["test", "ready", "8.1.0", "1", "1", "0", "enforce", "(standard)"]
        assert "override=begun rule=vfio-postcopy" in note
        assert await run("status", "--json", admin) == 0
        assert json.loads(capsys.readouterr().out)["vms"][0]["name"] == "test"
        await qemu.stop()
        assert await qmp.closed()
        assert await run("status", admin) == 1
        assert "test: no link to QEMU: " in capsys.readouterr().out
        await qemu.start()


async def test_what_happens_is_told_line_by_line(tmp_path: Path) -> None:
    async with guard_with_admin(tmp_path) as (qemu, guard, admin), connected(tmp_path / "guard.sock") as qmp:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qmpguard", "tail", admin, "--since", "0"), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None

        async def line() -> str:
            assert process.stdout is not None
            async with asyncio.timeout(TIMEOUT):
                return (await process.stdout.readline()).decode().strip()

        assert (await line()).endswith(" test link up: 8.1.0")
        reply = await qmp.ask("migrate-set-capabilities", POSTCOPY)
        told = await line()
        assert f"decision refused migrate-set-capabilities client=1 uid={os.getuid()} ref=" in told
        assert told.partition(" ref=")[2].split()[0] in reply["error"]["desc"]
        await qmp.ask("human-monitor-command", {"command-line": "migrate_set_capability postcopy-ram on"})
        assert "refused human-monitor-command 'migrate_set_capability postcopy-ram on' client=1" in await line()
        guard.vm.overrides.begin(None, 60, "ticket 7", Peer(0, 1, 2))
        assert (await line()).endswith("override begun rule=all uid=2 reason='ticket 7'")
        qemu.emit("STOP", why="x")
        assert (await line()).endswith('event STOP {"why": "x"}')
        process.terminate()
        await process.communicate()


async def test_the_end_of_the_guard_ends_a_tail_with_a_word(tmp_path: Path) -> None:
    async with guard_with_admin(tmp_path) as (_, _, admin):
        stream = AdminClient(admin).stream("/api/v1/stream?since=0")
        assert (await asyncio.to_thread(next, stream))["kind"] == "link"
    with pytest.raises(UnavailableError, match="ended the stream"):
        await asyncio.to_thread(list, stream)


async def test_on_tcp_the_token_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting_by_tcp(tmp_path, guard) as visitor,
    ):
        admin = "tcp:" + visitor.base.removeprefix("http://")
        assert TOKEN in (tmp_path / "token").read_text()
        assert await run("status", admin, "--token-file", str(tmp_path / "token")) == 0
        assert await run("healthcheck", admin) == 0
        assert await run("status", admin) == 69
        assert await run("tail", admin) == 69
        assert capsys.readouterr().err.count("a bearer token is needed") == 2
        assert await run("status", admin, "--token-file", "/nowhere") == 2
        assert await run("tail", admin, "--token-file", str(tmp_path / "token"), "--vm", "none") == 69


async def test_what_is_no_admin_interface_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
        assert await run("status", "fd:3") == 2
        assert await run("status", str(tmp_path / "guard.sock")) == 69
    assert "the answer there is not the admin interface" in capsys.readouterr().err
