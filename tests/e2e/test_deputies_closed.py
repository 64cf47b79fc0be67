"""QEMU as a deputy in profile standard: which deployment closes the way to its own monitor, and the guard's console."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.remote import consoles
from tests.support.deputy import at, attack, deputy
from tests.support.guarding import TIMEOUT, Client, connected, eventually, guarding
from tests.support.process import guard_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="runs QEMU as another user")
USER = 12345


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that QEMU's user may enter, which `tmp_path` is not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_user(binary: Path) -> tuple[str, str]:
    """The option by which QEMU gives up root."""
    return ("-runas", f"{USER}:{USER}") if binary == system_qemu() else ("-run-with", f"user={USER}:{USER}")


def unix(path: Path) -> dict[str, Any]:
    return {"addr": {"type": "unix", "data": {"path": str(path)}}, "server": False}


def waits(path: Path) -> bool:
    """Whether a connection waits to be accepted at a path (/proc/net/unix: SS_CONNECTING)."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(fields[-1] == str(path) and fields[5] == "02" for fields in lines)


async def cut(qmp: Client, path: Path) -> None:
    """Cut the guard's connection, as a client in profile standard may."""
    devices = (await qmp.ask("query-chardev"))["return"]
    label = next(device["label"] for device in devices if str(path) in device["filename"])
    qmp.send({"execute": "yank", "arguments": {"instances": [{"type": "chardev", "id": label}]}})
    assert await qmp.closed()


async def is_off(watcher: Client) -> bool:
    states = (await watcher.ask("query-migrate-capabilities"))["return"]
    return not next(one["state"] for one in states if one["capability"] == "postcopy-ram")


@AS_ROOT
@pytest.mark.parametrize("binary", QEMUS)
async def test_qemu_cannot_connect_to_a_monitor_that_was_taken_over(folder: Path, binary: Callable[[], Path]) -> None:
    """Neither by a character device nor by migration nor by a network device; nor after a guard was killed."""
    async with Qemu(binary(), folder, as_user(binary()), monitors=2, machine="pc") as qemu:
        path, second = qemu.monitors
        os.chown(path, USER, USER)
        moved = path.with_name(path.name + ".guard") / "qemu"
        async with connected(second) as watcher:
            async with guard_process(folder, "run", "--takeover", str(path)) as guard:
                await guard.says(" ready: ")
                async with connected(path) as qmp:
                    backend = {"type": "socket", "data": unix(moved)}
                    reply = await qmp.ask("chardev-add", {"id": "c", "backend": backend})
                    assert "Permission denied" in reply["error"]["desc"]
                    reply = await qmp.ask("migrate", {"uri": f"unix:{moved}"})
                    status = (await qmp.ask("query-migrate"))["return"]
                    assert "error" in reply or status["status"] in ("setup", "failed")
                    attack(await deputy(qmp, at(moved)))
                    await cut(qmp, path)
                await guard.says("link=up", 2)
                assert await is_off(watcher)
                async with connected(path) as qmp:
                    assert await qmp.ask("query-name") == {"return": {}}
                await guard.end(signal.SIGKILL)
            assert moved.is_socket()
            async with guarding(path, folder / "other.sock", up=False) as plain:
                await eventually(lambda: str(moved) in plain.vm.snapshot().link.reason)
            async with guard_process(folder, "run", "--takeover", str(path)) as guard:
                await guard.says(" ready: ", 2)
                async with connected(path) as qmp:
                    assert "return" in await qmp.ask("query-status")
                ((_, (vm,)),) = consoles.all_vms(guard.process.pid)
                assert not any("its own monitor" in note for note in vm["notes"])
            assert await is_off(watcher)
        assert (path.stat().st_uid, moved.parent.exists()) == (USER, False)


@AS_ROOT
@pytest.mark.parametrize("binary", QEMUS)
async def test_where_qemu_could_connect_the_guard_says_so(folder: Path, binary: Callable[[], Path]) -> None:
    """The attack of the test above succeeds there: the capability is on, and no guard has judged it."""
    async with Qemu(binary(), folder, as_user(binary()), monitors=2, machine="pc") as qemu:
        path, second = qemu.monitors
        async with guarding(path) as guard:
            assert guard.remark() == "", "the socket belongs to root, and QEMU runs as another user"
            assert guard.vm.process is not None
            assert (guard.vm.process.pid, guard.vm.process.uid) == (qemu.process.pid, USER)
        os.chown(path, USER, USER)
        async with guarding(path) as guard, connected(folder / "guard.sock") as qmp:
            assert f"QEMU, which runs as user {USER}, can connect to its own monitor" in guard.remark()
            port = await deputy(qmp, at(path))
            await eventually(lambda: waits(path))
            await cut(qmp, path)
            async with connected(second) as watcher, asyncio.timeout(TIMEOUT):
                while await is_off(watcher):
                    attack(port)


@pytest.mark.parametrize("binary", QEMUS)
async def test_qemu_may_not_begin_an_override_at_the_console(tmp_path: Path, binary: Callable[[], Path]) -> None:
    """A device of QEMU writes the request: a serial port, whose bytes a test sends in the place of the guest."""
    test = tmp_path / "qtest"
    args = [
        "-S",
        "-qtest",
        f"unix:{test},server=on,wait=off",
        "-chardev",
        "null,id=s",
        "-device",
        "isa-serial,chardev=s",
    ]
    async with (
        Qemu(binary(), tmp_path, args, machine="pc") as qemu,
        guard_process(tmp_path, "run", "--qemu", str(qemu.monitors[0]), "--listen", f"{tmp_path}/guard.sock") as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        (console,) = (one.path for one in consoles.all_consoles(guard.process.pid))
        where = {"path": console.removeprefix("\0"), **({"abstract": True} if console.startswith("\0") else {})}
        backend = {"type": "socket", "data": {"addr": {"type": "unix", "data": where}, "server": False}}
        assert "return" in await qmp.ask("chardev-change", {"id": "s", "backend": backend})
        begin = {"vm": "vm", "rule": None, "seconds": 60, "reason": "a guest"}
        with socket.socket(socket.AF_UNIX) as port:
            port.connect(str(test))
            for byte in json.dumps({"begin": begin}).encode() + b"\n":
                port.sendall(b"outb 0x3f8 %#x\n" % byte)
                assert port.recv(64).startswith(b"OK")
        await guard.says(f"refused: process {qemu.process.pid} is the QEMU of VM vm")
        ((_, (vm,)),) = consoles.all_vms(guard.process.pid)
        assert vm["overrides"] == []


#: asks the console at a path for an override, and leaves the answer in a file
ASKS = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as console:
    console.connect(sys.argv[1].replace("@", "\\0") if sys.argv[1].startswith("@") else sys.argv[1])
    console.sendall(sys.argv[2].encode() + b"\\n")
    answer = console.recv(9999)
with open(sys.argv[3] + ".part", "wb") as file:
    file.write(answer)
os.rename(sys.argv[3] + ".part", sys.argv[3])
"""


@pytest.mark.qemu
@pytest.mark.parametrize("options", [(), ("--keep-pid",)])
async def test_a_program_that_qemu_starts_may_not_begin_an_override(tmp_path: Path, options: tuple[str, ...]) -> None:
    """With `exec` the guard makes QEMU's socket itself, and with --keep-pid QEMU is the guard's parent."""
    listen, answer, program = tmp_path / "guard.sock", tmp_path / "answer", tmp_path / "asks.py"
    program.write_text(ASKS)
    qemu = (str(system_qemu()), "-nodefaults", "-display", "none", "-accel", "tcg", "-M", "none")
    async with guard_process(tmp_path, "exec", *options, "--listen", str(listen), "--", *qemu) as process:
        await process.says(" ready: ")
        children = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children").read_text().split()
        pids = process.process.pid, int(children[0])
        guard, of_qemu = reversed(pids) if options else pids
        (console,) = (one.path for one in consoles.all_consoles(guard))
        begin = json.dumps({"begin": {"vm": "vm", "rule": None, "seconds": 60, "reason": "a program"}})
        words = (sys.executable, str(program), console.replace("\0", "@"), begin, str(answer))
        async with connected(listen) as qmp:
            assert await qmp.ask("migrate", {"uri": f"exec:{shlex.join(words)}"}) == {"return": {}}
            await eventually(answer.exists)
    assert f"was started by the QEMU of VM vm (process {of_qemu})" in json.loads(answer.read_text())["error"]
