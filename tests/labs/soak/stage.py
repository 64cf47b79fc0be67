"""What a soak runs: the VMs and their names, the config of the one guard, and the faults of the guard itself."""

from __future__ import annotations

import asyncio
import signal
import sys
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from tests.labs.soak.plan import Blow, Kind
from tests.support.process import vm_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.process import Process

#: of four simulated VMs three may meet faults; the fourth is never touched
TOUCHED = 3 / 4


class Names(NamedTuple):
    """The names of the VMs: those that faults may meet, those that they never meet, and those on real QEMUs."""

    touched: tuple[str, ...]
    quiet: tuple[str, ...]
    real: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.touched, *self.quiet, *self.real)


def names(simulated: int, real: int) -> Names:
    """Return the names of so many VMs."""
    vms = tuple(f"vm{number}" for number in range(simulated))
    count = int(simulated * TOUCHED)
    return Names(vms[:count], vms[count:], tuple(f"real{number}" for number in range(real)))


def config(folder: Path, vms: Names, *, without: Sequence[str] = (), strict: Sequence[str] = ()) -> str:
    """Return the config of all VMs; some may be left out, and some have profile strict."""
    head = f'[log]\nlevel = "warning"\naudit = "{folder}/audit"\n[admin]\nlisten = "{folder}/admin.sock"\n'
    tables = []
    for name in vms.all:
        more = {"policy": '{ profile = "strict" }'} if name in strict else {}
        if name in vms.real:
            more["qemu"] = f'"{folder}/{name}/qmp0.sock"'
        if name not in without:
            tables.append(vm_table(folder, name, **more))
    return head + "".join(tables)


class GuardFaults:
    """Reloads and overrides. The VMs that are never touched stay as they are in each config."""

    def __init__(self, guard: Process, folder: Path, vms: Names, seed: int) -> None:
        self._guard, self._folder, self._vms, self._random = guard, folder, vms, Random(seed)

    async def strike(self, blow: Blow) -> None:
        """Make one fault."""
        if blow.kind is Kind.OVERRIDE:
            await self._override(blow)
            return
        some = self._random.sample(self._vms.touched, min(8, len(self._vms.touched)))
        text = config(self._folder, self._vms, without=some[:2], strict=some[2:])
        write(self._folder, text + ("nonsense = [\n" if blow.kind is Kind.BAD_RELOAD else ""))
        self._guard.send(signal.SIGHUP)

    async def _override(self, blow: Blow) -> None:
        words = ("override", "--pid", str(self._guard.process.pid), "--vm", blow.vm, "--rule", "vfio-postcopy")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qmpguard", *words, "--for", f"{blow.seconds:.0f}s", "--reason", "soak"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,  # a VM that a reload has removed has none
        )
        try:
            async with asyncio.timeout(60):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def write(folder: Path, text: str) -> Path:
    """Write the config at once and whole, and return its path."""
    path, new = folder / "guard.toml", folder / "guard.new"
    new.write_text(text)
    new.rename(path)
    return path
