"""The real QEMUs of a soak: each runs in a folder of its own, is killed or stopped, and comes back."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from qmpguard.demo.qemu import Qemu, vfio_user_device
from tests.labs.soak.plan import Kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: seconds of a stopped QEMU at most: TCG machines are many
STOP = 15.0


class RealVm:
    """One VM on a real QEMU. ``told`` is called with what must not happen."""

    def __init__(self, folder: Path, binary: Path, device: Path | None, told: Callable[[str], None]) -> None:
        self.socket = folder / "qmp0.sock"
        self.ready = asyncio.Event()
        self._folder, self._binary, self._told = folder, binary, told
        described = [] if device is None else ["-device", json.dumps(vfio_user_device(device, id="gpu0"))]
        self._arguments = described
        self._qemu: Qemu | None = None
        self._is_killed = False
        folder.mkdir()

    async def run(self) -> None:
        """Let one QEMU run after the other, until cancelled."""
        while True:
            async with Qemu(self._binary, self._folder, self._arguments, machine="pc", memory="32") as qemu:
                self._qemu = qemu
                self.ready.set()
                code = await qemu.process.wait()
                if not self._is_killed:
                    said = qemu.stderr.read_text(errors="replace").strip()[-300:]
                    self._told(f"{self._folder.name}: QEMU ended by itself with {code}: {said}")
                self._is_killed, self._qemu = False, None
            await asyncio.sleep(1.0)

    async def suffer(self, kind: Kind, seconds: float) -> None:
        """Kill QEMU, or stop it for a while."""
        qemu = self._qemu
        if qemu is None or self._is_killed:
            return
        if kind is Kind.REAL_KILLED:
            self._is_killed = True
            qemu.kill()
            return
        with suppress(ProcessLookupError):
            qemu.process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(min(seconds, STOP))
            finally:
                qemu.process.send_signal(signal.SIGCONT)
