"""Hazards that QEMU does not refuse, each seen on a real QEMU: what it does alone, and that the guard refuses it."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import random
import signal
from contextlib import asynccontextmanager
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from tests.support.guarding import (
    TIMEOUT,
    Client,
    assert_refused,
    capabilities,
    connected,
    guarding,
    system_version,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

QEMUS = [
    pytest.param(system_qemu, id="7.2", marks=pytest.mark.qemu),
    pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11),
]
ONLY_7, ONLY_11 = QEMUS[:1], QEMUS[1:]
MIB = 1 << 20
SHARED = ("-object", "memory-backend-memfd,id=ram0,size=64M,share=on", "-machine", "memory-backend=ram0")
FILLING = random.Random(17).randbytes(4 * MIB)  # noqa: S311 -- it cannot be compressed, and is the same each time
SAVE = {"job-id": "j", "tag": "t", "vmstate": "disk", "devices": ["disk"]}


@asynccontextmanager
async def vm(
    binary: Path, folder: Path, arguments: Sequence[str] = (), *, disk: bool = True
) -> AsyncGenerator[tuple[Client, Client, Qemu]]:
    """A VM with a disk for snapshots: a client behind a guard, one beside it, and QEMU."""
    if disk:
        arguments = [*arguments, "-drive", f"if=none,node-name=disk,format=qcow2,file={await qcow2(binary, folder)}"]
    async with (
        Qemu(binary, folder, arguments, monitors=2, machine="pc") as qemu,
        guarding(qemu.monitors[0]),
        connected(folder / "guard.sock") as through,
        connected(qemu.monitors[1]) as direct,
    ):
        yield through, direct, qemu


async def qcow2(binary: Path, folder: Path) -> Path:
    """A disk, made by QEMU itself: qemu-img need not be here."""
    path = folder / "disk.qcow2"
    path.touch()
    (folder / "maker").mkdir()
    async with Qemu(binary, folder / "maker") as maker, connected(maker.monitors[0]) as qmp:
        file = {"driver": "file", "filename": str(path)}
        await job(qmp, "blockdev-create", {"job-id": "f", "options": file | {"size": 0}})
        await qmp.ask("blockdev-add", file | {"node-name": "f"})
        await job(
            qmp, "blockdev-create", {"job-id": "q", "options": {"driver": "qcow2", "file": "f", "size": 256 * MIB}}
        )
    return path


async def job(qmp: Client, command: str, arguments: dict[str, Any]) -> str:
    """Run a job to its end and return its error, which is empty where it has none."""
    assert await qmp.ask(command, arguments) == {"return": {}}
    async with asyncio.timeout(TIMEOUT):
        while True:
            (state,) = (await qmp.ask("query-jobs"))["return"]
            if state["status"] == "concluded":
                assert await qmp.ask("job-dismiss", {"id": state["id"]}) == {"return": {}}
                return str(state.get("error", ""))
            await asyncio.sleep(0.02)


async def turn_on(qmp: Client, name: str, *, state: bool = True) -> None:
    states = {"capabilities": [{"capability": name, "state": state}]}
    assert await qmp.ask("migrate-set-capabilities", states) == {"return": {}}


async def both_refused(qmp: Client, rule: str) -> None:
    """Refused by QMP and by HMP, and QEMU lives."""
    assert_refused(await qmp.ask("snapshot-save", SAVE), rule)
    said = (await qmp.ask("human-monitor-command", {"command-line": "savevm now"}))["return"]
    assert f"rule {rule}" in said
    assert "return" in await qmp.ask("query-status")


async def size_of_snapshot(qmp: Client, tag: str = "t") -> int:
    (node,) = [n for n in (await qmp.ask("query-named-block-nodes"))["return"] if n["node-name"] == "disk"]
    (size,) = [s["vm-state-size"] for s in node["image"]["snapshots"] if s["name"] == tag]
    assert isinstance(size, int)
    return size


@pytest.mark.parametrize("binary", ONLY_7)
async def test_multifd_ends_an_old_qemu_at_a_snapshot(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with vm(binary(), tmp_path) as (through, direct, qemu):
        await turn_on(direct, "multifd")
        await both_refused(through, "snapshot-multifd")
        direct.send({"execute": "snapshot-save", "arguments": SAVE})
        async with asyncio.timeout(TIMEOUT):
            assert await qemu.process.wait() == -signal.SIGSEGV


@pytest.mark.parametrize("binary", ONLY_11)
async def test_a_new_qemu_refuses_multifd_itself(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with vm(binary(), tmp_path) as (through, _, _):
        await turn_on(through, "multifd")
        assert await job(through, "snapshot-save", SAVE) == "Snapshots are not compatible with multifd"


@pytest.mark.parametrize("binary", ONLY_11)
async def test_a_snapshot_in_a_mode_of_cpr_holds_no_ram(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with vm(binary(), tmp_path, SHARED) as (through, direct, qemu):
        fill(qemu)
        cpr = {"mode": "cpr-exec", "cpr-exec-command": ["q"]}
        assert await through.ask("migrate-set-parameters", cpr) == {"return": {}}
        await both_refused(through, "snapshot-cpr")
        assert await job(direct, "snapshot-save", SAVE) == ""
        assert await size_of_snapshot(direct) < len(FILLING)
        assert await through.ask("migrate-set-parameters", {"mode": "normal"}) == {"return": {}}
        assert await job(through, "snapshot-save", SAVE | {"tag": "whole"}) == ""
        assert await size_of_snapshot(direct, "whole") > len(FILLING)


@pytest.mark.parametrize("binary", QEMUS)
async def test_an_ordinary_snapshot_is_saved_and_loaded(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with vm(binary(), tmp_path) as (through, _, _):
        for state in ("running", "paused"):
            if state == "paused":
                await through.ask("stop")
            assert await job(through, "snapshot-save", SAVE | {"tag": state}) == ""
            assert await job(through, "snapshot-load", SAVE | {"tag": state}) == ""
        assert (await through.ask("human-monitor-command", {"command-line": "savevm hmp"}))["return"] == ""
        assert (await through.ask("human-monitor-command", {"command-line": "loadvm hmp"}))["return"] == ""


@pytest.mark.parametrize("binary", QEMUS)
async def test_memory_that_is_ignored_is_not_in_the_snapshot(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with vm(binary(), tmp_path, named(tmp_path)) as (through, direct, qemu):
        fill(qemu)
        await turn_on(through, "x-ignore-shared")
        await both_refused(through, "ignore-shared")
        assert await job(direct, "snapshot-save", SAVE) == ""
        assert await size_of_snapshot(direct) < len(FILLING)
        await turn_on(through, "x-ignore-shared", state=False)
        assert await job(through, "snapshot-save", SAVE | {"tag": "whole"}) == ""
        assert await size_of_snapshot(direct, "whole") > len(FILLING)


@pytest.mark.parametrize("binary", QEMUS)
async def test_a_template_with_shared_memory_is_written_to_a_file(tmp_path: Path, binary: Callable[[], Path]) -> None:
    async with vm(binary(), tmp_path, named(tmp_path), disk=False) as (through, _, _):
        await turn_on(through, "x-ignore-shared")
        await through.ask("stop")
        assert await through.ask("migrate", {"uri": f"exec:cat > {tmp_path / 'template'}"}) == {"return": {}}
        assert await ended(through) == "completed"


async def ended(qmp: Client) -> str:
    async with asyncio.timeout(TIMEOUT):
        while True:
            status: str = (await qmp.ask("query-migrate"))["return"]["status"]
            if status in ("completed", "failed"):
                return status
            await asyncio.sleep(0.02)


@pytest.mark.userfaultfd
@pytest.mark.parametrize("binary", QEMUS)
async def test_a_background_snapshot_does_not_see_what_another_process_writes(
    tmp_path: Path, binary: Callable[[], Path]
) -> None:
    """A vhost-user back end has the guest's memory by a descriptor; so has this test, which writes as one does."""
    before, after, at = b"BEFORE-THE-START", b"AFTER--THE-START", 48 * MIB
    target, gate = tmp_path / "snapshot", tmp_path / "gate"
    os.mkfifo(gate)
    async with vm(binary(), tmp_path, SHARED, disk=False) as (_, direct, qemu):
        with ram_of(qemu) as file, mmap.mmap(file.fileno(), 64 * MIB) as ram:
            fill(qemu)  # more than a pipe holds, so that QEMU does not come to what is behind it
            ram[at : at + len(before)] = before
            await turn_on(direct, "background-snapshot")
            assert await direct.ask("migrate", {"uri": f"exec:cat {gate}; cat > {target}"}) == {"return": {}}
            async with asyncio.timeout(TIMEOUT):
                while (await direct.ask("query-migrate"))["return"]["status"] != "active":  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            ram[at : at + len(after)] = after
            await asyncio.to_thread(gate.write_bytes, b"")
            assert await ended(direct) == "completed"
        written = target.read_bytes()
        assert (before in written, after in written) == (False, True)


def named(folder: Path) -> list[str]:
    """Shared memory in a file: QEMU 8.1 and later ignore no other."""
    backend = f"memory-backend-file,id=ram0,size=64M,share=on,mem-path={folder / 'memfd:ram'}"
    return ["-object", backend, "-machine", "memory-backend=ram0"]


def fill(qemu: Qemu) -> None:
    """Put something into the guest's memory that takes its room in a snapshot."""
    with ram_of(qemu) as file, mmap.mmap(file.fileno(), 64 * MIB) as ram:
        ram[32 * MIB : 32 * MIB + len(FILLING)] = FILLING


def ram_of(qemu: Qemu) -> Any:
    """The guest's memory, as a back end would be sent it."""
    folder = FilePath("/proc", str(qemu.process.pid), "fd")
    (found,) = [fd for fd in folder.iterdir() if "memfd:" in str(fd.readlink())]
    return found.open("r+b")


@pytest.mark.parametrize("binary", ONLY_11)
async def test_a_snapshot_loses_a_vfio_user_device_and_the_guard_warns(
    tmp_path: Path, binary: Callable[[], Path]
) -> None:
    async with VfioUserServer(tmp_path / "vu.sock") as server:
        device = json.dumps(vfio_user_device(server.path, id="gpu0"))
        async with vm(binary(), tmp_path, ["-device", device]) as (through, _, _):
            assert await job(through, "snapshot-save", SAVE) == ""
            assert_refused(await through.ask("migrate-set-capabilities", capabilities(x_colo=True)), "vfio-colo")


UNIX = {"transport": "socket", "type": "unix", "path": "/nowhere"}
CPR_ALONE = {"channels": [{"channel-type": "cpr", "addr": UNIX}]}
NO_PROGRAM = {"channels": [{"channel-type": "main", "addr": {"transport": "exec", "args": []}}]}
#: by version: a request that ends QEMU
DEADLY = [
    *(
        pytest.param(system_qemu, "qom-list-properties", {"typename": t}, id=f"7.2-{t}", marks=pytest.mark.qemu)
        for t in ("colo-compare", "qio-net-listener", "x-remote-object")
    ),
    pytest.param(
        *(system_qemu, "qom-list-properties", {"typename": "microvm-machine"}),
        id="7.2-microvm-machine",
        marks=[pytest.mark.qemu, pytest.mark.skipif(system_version() >= (10,), reason="QEMU 10.0 answers it")],
    ),
    *(
        pytest.param(vfio_qemu, command, arguments, id=f"11.1-{command}-{i}", marks=pytest.mark.qemu11)
        for command in ("migrate", "migrate-incoming")
        for i, arguments in enumerate((CPR_ALONE, NO_PROGRAM))
    ),
    *(
        pytest.param(
            binary.values[0],
            "xen-load-devices-state",
            {"filename": "/dev/null"},
            id=f"{binary.id}-xen",
            marks=binary.marks,
        )
        for binary in QEMUS
    ),
]


@pytest.mark.parametrize(("binary", "command", "arguments"), DEADLY)
async def test_what_ends_qemu_is_refused(
    tmp_path: Path, binary: Callable[[], Path], command: str, arguments: dict[str, Any]
) -> None:
    words = ["-incoming", "defer"] if command == "migrate-incoming" else []
    async with vm(binary(), tmp_path, words, disk=False) as (through, direct, qemu):
        if command.startswith("xen"):
            await direct.ask("stop")
        assert_refused(await through.ask(command, arguments), "qemu-crash")
        assert "return" in await through.ask("query-status")
        direct.send({"execute": command, "arguments": arguments})
        async with asyncio.timeout(TIMEOUT):
            assert await qemu.process.wait() in (-signal.SIGSEGV, -signal.SIGABRT)
