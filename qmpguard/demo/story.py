"""The demo: a real QEMU with a real VFIO device, without and with the guard, printed as a transcript."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from qemu.qmp import ExecuteError, QMPClient, QMPError

from qmpguard.demo.lab import LabUnavailable, userfaultfd, vfio_qemu
from qmpguard.demo.qemu import Qemu, QemuDied, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from qmpguard.errors import UnavailableError
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

#: seconds that any single step may take
STEP = 20.0

_BOLD, _RED, _GREEN, _DIM, _END = "\033[1m", "\033[31m", "\033[32m", "\033[2m", "\033[0m"

POSTCOPY = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
SNAPSHOT = {"capabilities": [{"capability": "background-snapshot", "state": True}]}
_AWAY = {"uri": "exec:cat >/dev/null"}
#: bytes per second, so that the migration takes long enough to be observed
_SLOWLY = {"max-bandwidth": 50_000, "max-postcopy-bandwidth": 10_000}


#: two messages of a destination on the return path, each a type, a size and a number: the devices' state is loaded,
#: and the migration is complete. Source: QEMU migration/migration.c: migrate_send_rp_pong,
#: QEMU_VM_PING_PACKAGED_LOADED; migrate_send_rp_shut
_HAS_ALL = struct.pack(">HHIHHI", 2, 4, 0x42, 1, 4, 0)


#: why the demo is told with a simulated QEMU
_NONE = "no QEMU 10.1 or later with vfio-user-pci is here: `make lab` gets QEMU 11.1"


def _found() -> Path | None:
    """Return the QEMU of the demo; None where there is none. Raises `LabUnavailable` for one that is named wrongly."""
    try:
        return vfio_qemu()
    except LabUnavailable:
        if "QMPGUARD_QEMU11_BINARY" in os.environ or "QMPGUARD_QEMU_BINARY" in os.environ:
            raise
        return None


async def tell() -> int:
    """Run the demo and return 0; where there is no QEMU for it, with a simulated one, and the first line says so.

    Raises `UnavailableError` if it fails.
    """
    from qmpguard.demo.simulated import tell_simulated

    try:
        await (_tell(binary) if (binary := _found()) is not None else tell_simulated(_NONE))
    except (LabUnavailable, QemuDied, QMPError, EOFError, TimeoutError, ExceptionGroup) as error:
        raise UnavailableError(f"the demo cannot go on: {_reason(error)}") from error
    print(
        _paint(_BOLD, "\nThe guard refuses the combination early, however it is requested, and changes nothing else.")
    )
    return 0


def _reason(error: Exception) -> str:
    """Return an error's text as one line; for a group, that of its first error."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return " ".join(str(error).split()) or f"no answer within {STEP:.0f} s"


async def _tell(binary: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="qmpguard-") as folder:
        async with asyncio.timeout(10 * STEP), VfioUserServer(Path(folder, "vu.sock")) as device:
            story = Story(binary, Path(folder), device.path, whole=_whole())
            await story.without()
            await story.guarded()
            await story.no_device()


def _whole() -> bool:
    """Say whether a QEMU can be the destination of a postcopy migration here; if not, print how to allow it."""
    try:
        userfaultfd()
    except LabUnavailable as error:
        print(f"{error}.\nWithout it, the destination of each migration is a socket that reads everything, not a QEMU.")
        return False
    return True


class Story:
    """The three chapters; each starts a new QEMU. ``whole``: the destinations are QEMUs too."""

    def __init__(self, binary: Path, folder: Path, device: Path, *, whole: bool = True) -> None:
        self._whole = whole
        self._binary = binary
        self._folder = folder
        self._device = device

    async def without(self) -> None:
        """QEMU alone allows the combination."""
        chapter(1, "QEMU alone, with a VFIO device: it allows a postcopy migration")
        async with (
            self._qemu("alone", device=True) as qemu,
            self._destination("alone-to", device=True) as uri,
            client(qemu.monitors[0]) as qmp,
        ):
            await say(qmp, "query-version")
            await say(qmp, "migrate-set-capabilities", POSTCOPY)
            await qmp.execute("migrate-set-parameters", _SLOWLY)
            await say(qmp, "migrate", {"uri": uri})
            await reached(qmp, "active")
            await say(qmp, "migrate-start-postcopy")
            await reached(qmp, "postcopy-active")
            note("The destination now discards guest RAM that a real device has pinned, and the guest is lost.")

    async def guarded(self) -> None:
        """The guard refuses the combination and lets a plain migration pass, with a warning."""
        chapter(2, "The same QEMU behind qmpguard")
        async with (
            self._qemu("guarded", device=True) as qemu,
            guard_process(qemu.monitors[0]) as socket,
            client(socket) as qmp,
            client(qemu.monitors[1]) as behind,
        ):
            await say(qmp, "query-status")
            await say(qmp, "migrate-set-capabilities", POSTCOPY)
            await say(qmp, "migrate-set-capabilities", SNAPSHOT)
            note("QEMU never received these commands, as its second monitor shows:")
            await say(behind, "query-migrate-capabilities", only=("postcopy-ram", "background-snapshot"))
            note("Now another client switches it on through that second monitor, without the guard:")
            await say(behind, "migrate-set-capabilities", POSTCOPY)
            await say(qmp, "migrate", _AWAY)
            note(
                "The client may switch it off again and start a plain migration; the guard warns of the device's state:"
            )
            await say(
                qmp, "migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-ram", "state": False}]}
            )
            await say(qmp, "migrate", _AWAY)
            await reached(qmp, "completed")

    async def no_device(self) -> None:
        """Without a VFIO device everything passes."""
        chapter(3, "A VM without the device, behind qmpguard: everything passes")
        async with (
            self._qemu("plain", device=False) as qemu,
            self._destination("plain-to", device=False) as uri,
            guard_process(qemu.monitors[0]) as socket,
            client(socket) as qmp,
        ):
            await say(qmp, "migrate-set-capabilities", POSTCOPY)
            await say(qmp, "migrate", {"uri": uri})
            await reached(qmp, "completed")

    def _qemu(self, name: str, *, device: bool, arguments: tuple[str, ...] = ()) -> Qemu:
        folder = self._folder / name
        folder.mkdir()
        description = json.dumps(vfio_user_device(self._device, id="gpu0"))
        more = ("-device", description) if device else ()
        return Qemu(self._binary, folder, (*arguments, *more), monitors=2, machine="pc")

    @contextlib.asynccontextmanager
    async def _destination(self, name: str, *, device: bool) -> AsyncGenerator[str]:
        """Start the destination of a postcopy migration, a QEMU if that is possible, and yield its URI."""
        if not self._whole:
            async with sink(self._folder / f"{name}.sock") as uri:
                yield uri
            return
        async with self._qemu(name, device=device, arguments=("-incoming", "defer")) as qemu:
            uri = f"unix:{qemu.monitors[0].with_name('migration.sock')}"
            async with client(qemu.monitors[0]) as qmp:
                await qmp.execute("migrate-set-capabilities", POSTCOPY)
                await qmp.execute("migrate-incoming", {"uri": uri})
            yield uri


@contextlib.asynccontextmanager
async def guard_process(qemu: Path) -> AsyncGenerator[Path]:
    """Run `qmpguard run` as a user would, and print its warnings; yield its socket, which is beside QEMU's."""
    socket = qemu.with_name(f"guard-{qemu.name}")
    note(f"$ qmpguard run --qemu {qemu.name} --listen {socket.name}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qmpguard", "run", "--qemu", str(qemu), "--listen", str(socket)),
        *("--log-level", "warning"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with Tasks() as tasks:
        try:
            async with asyncio.timeout(STEP):
                first = (await process.stderr.readline()).decode().rstrip()
            note(first.replace(f"{qemu.parent}/", ""))
            tasks.start("demo log", _echo(process.stderr))
            yield socket
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(STEP):
                await process.wait()


@contextlib.asynccontextmanager
async def sink(path: Path) -> AsyncGenerator[str]:
    """Accept a migration, read all of it and report it as complete; yield the URI."""
    writers = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(_HAS_ALL)
        while await reader.read(1 << 16):
            pass

    server = await asyncio.start_unix_server(take, path)
    try:
        yield f"unix:{path}"
    finally:
        for writer in writers:
            writer.close()
        server.close()
        await server.wait_closed()


async def _echo(log: asyncio.StreamReader) -> None:
    while line := await log.readline():
        _, _, text = line.decode().rstrip().partition(" WARNING ")
        if text:
            note(f"guard's log: {text}")


@contextlib.asynccontextmanager
async def client(socket: Path) -> AsyncGenerator[QMPClient]:
    """Connect a qemu.qmp client."""
    qmp = QMPClient("demo")
    async with asyncio.timeout(STEP):
        await qmp.connect(str(socket))
    try:
        yield qmp
    finally:
        await qmp.disconnect()


async def say(
    qmp: QMPClient, command: str, arguments: Mapping[str, object] | None = None, *, only: tuple[str, ...] = ()
) -> None:
    """Send a command and print it with its answer; ``only`` selects entries of a list of capabilities."""
    request: dict[str, object] = {"execute": command}
    if arguments:
        request["arguments"] = arguments
    print(f" → {json.dumps(request)}")
    try:
        async with asyncio.timeout(STEP):
            answer = await qmp.execute(command, dict(arguments) if arguments else None)
    except ExecuteError as error:
        print(_paint(_RED, f" ← error: {error}"))
        return
    if only and isinstance(answer, list):
        answer = [entry for entry in answer if isinstance(entry, dict) and entry.get("capability") in only]
    print(_paint(_GREEN, f" ← {json.dumps({'return': answer})}"))


async def reached(qmp: QMPClient, wanted: str) -> None:
    """Wait for a migration to reach a state or to fail, and print it."""
    status = ""
    async with asyncio.timeout(STEP):
        while status not in (wanted, "failed"):
            answer = await qmp.execute("query-migrate")
            assert isinstance(answer, dict)
            status = str(answer.get("status"))
            await asyncio.sleep(0.05)
    note(f"the migration: {status}")


def chapter(number: int, title: str) -> None:
    """Print a chapter's heading."""
    print(_paint(_BOLD, f"\n{number}. {title}"))


def note(text: str) -> None:
    """Print a remark."""
    print(_paint(_DIM, f"   {text}"))


def _paint(colour: str, text: str) -> str:
    return f"{colour}{text}{_END}" if sys.stdout.isatty() else text
