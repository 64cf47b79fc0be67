"""One running QEMU: started in a directory, ready when entered, ended when left. Independent of the guard."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

#: seconds for a QEMU to be ready; it takes 0.2, and ten times that on a busy machine
START = 20.0
#: seconds for a QEMU to end by itself after SIGTERM
STOP = 5.0
#: bytes of QEMU's standard error that an exception repeats
MAX_STDERR = 2000


class QemuDied(RuntimeError):  # noqa: N818 - says what happened
    """A QEMU ended early or was not ready in time; the text has its standard error."""


class Qemu:
    """A QEMU process with ``monitors`` QMP sockets in ``directory``: qmp0.sock, qmp1.sock, and so on.

    When it is entered, the machine is complete and every socket listens, and none has been connected to: QEMU
    takes one client at a time. Entering may raise QemuDied. ``memory`` is in MiB; machine "none" has none.
    A unix socket's path has at most 107 bytes, so ``directory`` must not be deep.
    """

    process: asyncio.subprocess.Process
    _killed: bool  # a second signal could take the exit status away from the waiting task

    def __init__(
        self,
        binary: Path,
        directory: Path,
        args: Sequence[str] = (),
        *,
        monitors: int = 1,
        machine: str = "none",
        memory: str = "64",
    ) -> None:
        self.monitors = [directory / f"qmp{i}.sock" for i in range(monitors)]
        self.stderr = directory / "qemu.err"
        self._command = [str(binary), "-nodefaults", "-display", "none", "-accel", "tcg", "-M", machine]
        if machine != "none":
            self._command += ["-m", memory]
        for path in self.monitors:
            self._command += ["-qmp", f"unix:{path},server=on,wait=off"]
        self._command += args

    async def __aenter__(self) -> Self:
        for path in self.monitors:
            path.unlink(missing_ok=True)  # left by a killed QEMU
        # One more monitor, on a pair of sockets, shows when QEMU is ready: it negotiates only when the machine is
        # complete and the main loop runs, and the connection ends with the process. A socket's file would only
        # show that an early step of the start is done.
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                await self._start(theirs)
            try:
                await self._ready(ours)
            except BaseException:
                self.kill()
                await self.process.wait()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def kill(self) -> None:
        """Kill it (SIGKILL), like a crash; does nothing if it has already ended."""
        if self.process.returncode is None and not self._killed:
            self._killed = True
            self.process.kill()

    async def stop(self) -> None:
        """End it (SIGTERM, then SIGKILL if it is still running) and wait for its end."""
        try:
            if self.process.returncode is None and not self._killed:
                self.process.terminate()
            async with asyncio.timeout(STOP):
                await self.process.wait()
        except TimeoutError:
            pass
        finally:
            self.kill()
            await self.process.wait()

    async def _start(self, control: socket.socket) -> None:
        number = control.fileno()
        self._killed = False
        with self.stderr.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                *("-chardev", f"socket,id=ready,fd={number}", "-qmp", "chardev:ready"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[number],
            )

    async def _ready(self, control: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=control.dup())
        reply = b""
        try:
            async with asyncio.timeout(START):
                writer.write(b'{"execute": "qmp_capabilities"}\n')
                while b'"return"' not in reply and (line := await reader.readline()):
                    reply = line
        except TimeoutError as error:
            raise self._died(f"is not ready after {START:.0f} s") from error
        except OSError as error:
            raise self._died("ended before it was ready") from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if b'"return"' not in reply:
            raise self._died("ended before it was ready")

    def _died(self, what: str) -> QemuDied:
        text = self.stderr.read_bytes()[-MAX_STDERR:].decode(errors="replace").strip()
        return QemuDied(f"{self._command[0]} {what}: {text or 'no output on standard error'}")


def vfio_user_device(socket_path: Path, *, id: str = "vfio0") -> dict[str, Any]:  # noqa: A002 - QEMU's word
    """Return the arguments of `device_add` for a VFIO device at a vfio-user socket; as JSON they fit `-device`."""
    return {"driver": "vfio-user-pci", "id": id, "socket": {"type": "unix", "path": str(socket_path)}}
