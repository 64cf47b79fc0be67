"""A config of many VMs, reloaded again and again while their clients work: the process, with its signal."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, Client, assert_refused, capabilities, connected

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.qemu

VMS, RELOADS = 50, 100
#: a guard that gives a configuration up sooner
HURRIED = """
import sys
from qmpguard.cli import main
from qmpguard.settings import read
from qmpguard.threads import BlockingCalls
read._reading = BlockingCalls("reading the configuration", 0.1)
sys.exit(main())
"""
POSTCOPY = capabilities(postcopy_ram=True)


class Process:
    """A guard as a process, with its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, text: str) -> str:
        """Read the log up to the line with a text."""
        assert self.process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            while line := (await self.process.stderr.readline()).decode():
                if text in line:
                    return line
        raise AssertionError(f"the log ended without {text!r}")

    async def reload(self, outcome: str = "reloaded: ") -> str:
        self.process.send_signal(signal.SIGHUP)
        return await self.says(outcome)


@asynccontextmanager
async def running(config: Path, *flags: str) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", *(flags if "-c" in flags else (*flags, "-m", "qmpguard"))),
        *("run", "--config", str(config)),
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    try:
        yield Process(process)
    finally:
        process.terminate()
        rest = b"" if process.stderr is None else await process.stderr.read()
        assert await process.wait() == 0
        assert b"Traceback" not in rest


def table(name: str, qemu: Path, more: str = "") -> str:
    return f'[[vm]]\nname = "{name}"\nqemu = "{qemu}"\nlisten = "{qemu.parent}/{name}.guard"\n{more}'


async def test_fifty_vms_and_a_real_one_are_reloaded_a_hundred_times_under_load(tmp_path: Path) -> None:
    """Every reload swaps policies and exchanges a VM; no client is dropped, and no verdict lost or wrong."""
    config = tmp_path / "c.toml"
    stop = asyncio.Event()
    verdicts, replies = itertools.count(), itertools.count()

    async def ask_on(client: Client) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            assert await client.ask("query-status", id=number) is not None
            next(replies)

    async def be_refused(client: Client) -> None:
        while not stop.is_set():
            assert_refused(await client.ask("migrate-set-capabilities", POSTCOPY), "vfio-postcopy")
            next(verdicts)

    async with AsyncExitStack() as stack:
        fakes = [await stack.enter_async_context(FakeQemu(tmp_path / f"q{i}")) for i in range(VMS + 1)]
        real = await stack.enter_async_context(Qemu(system_qemu(), tmp_path))
        for fake in fakes:
            fake.devices["gpu0"] = "vfio-pci"
        kept = [table(f"vm{i}", fake.path) for i, fake in enumerate(fakes[:VMS])] + [table("real", real.monitors[0])]
        config.write_text("".join(kept))
        guard = await stack.enter_async_context(running(config))
        await guard.says(" ready: ")
        names = [f"vm{i}" for i in range(VMS)]
        clients = [await stack.enter_async_context(connected(tmp_path / f"{name}.guard")) for name in [*names, "real"]]
        async with asyncio.TaskGroup() as load:
            for number, client in enumerate(clients):
                load.create_task((ask_on if number % 2 or number == VMS else be_refused)(client))
            for number in range(RELOADS):
                policy = f"[policy.rules]\nvfio-state-lost = '{'off' if number % 2 else 'enforce'}'\n"
                guest = "" if number % 2 else table("guest", fakes[VMS].path, f"drift_interval = {number + 1}\n")
                config.write_text(policy + "".join(kept) + guest)
                told = await guard.reload()
                assert ("removed=guest" if number % 2 else "added=guest") in told
            stop.set()
        assert next(verdicts) > RELOADS
        assert next(replies) > RELOADS
        assert {fake.connections for fake in fakes[:VMS]} == {1}


async def test_a_bad_file_changes_nothing_and_says_why(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    async with FakeQemu(tmp_path / "q") as qemu:
        good = table("one", qemu.path)
        config.write_text(good)
        async with running(config, "-X", "dev") as guard:
            await guard.says(" ready: ")
            async with connected(tmp_path / "one.guard") as qmp:
                for bad in ("[[vm]\n", good + "colour = 1\n", good + good, good.replace("one.guard", "no/such/dir")):
                    config.write_text(bad)
                    line = await guard.reload("reload failed, nothing has changed: ")
                    assert str(config) in line or "cannot listen at" in line
                    assert await qmp.ask("query-name") == {"return": {}}
                config.write_text(good)
                assert "no change" in await guard.reload()


async def test_a_file_that_hangs_disables_neither_later_reloads_nor_the_end(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    async with FakeQemu(tmp_path / "q") as qemu:
        good = table("one", qemu.path)
        config.write_text(good)
        async with running(config, "-c", HURRIED) as guard:
            await guard.says(" ready: ")
            async with connected(tmp_path / "one.guard") as qmp:
                config.unlink()
                os.mkfifo(config)
                for _ in range(2):
                    assert "reading the configuration takes longer than" in await guard.reload("reload failed")
                    assert await qmp.ask("query-name") == {"return": {}}
                config.unlink()
                config.write_text(good)
                assert "no change" in await guard.reload()


async def test_a_qemu_that_dials_in_keeps_its_link_when_its_vm_is_renamed(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"

    def dialled(name: str) -> str:
        return f'[[vm]]\nname = "{name}"\nqemu_listen = "{tmp_path}/in"\nlisten = "{tmp_path}/c"\n'

    config.write_text(dialled("one"))
    options = ["-chardev", f"socket,id=out,path={tmp_path}/in,server=off", "-mon", "chardev=out,mode=control"]
    async with running(config) as guard:
        await guard.says("waiting for QEMU to connect")
        async with Qemu(system_qemu(), tmp_path, options, monitors=0):
            await guard.says("link=up")
            for name in ("two", "three"):
                config.write_text(dialled(name))
                assert f"added={name}" in await guard.reload()
                async with connected(tmp_path / "c") as qmp:
                    assert "return" in await qmp.ask("query-status")
