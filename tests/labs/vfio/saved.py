"""A small Linux guest that has negotiated failover, booted once and saved, so that a case has it in seconds.

It is booted on this machine, not in the lab, where a Linux would take minutes: the lab is itself emulated. The machine
type is QEMU 10.0's, which 11.1 has as well, so one state is for both.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from qmpguard.demo.lab import LabUnavailable
from qmpguard.demo.qemu import Qemu, QemuDied
from tests.support.guarding import Client, connected

#: the machine, and its RAM in MiB
MACHINE, MEMORY = "pc-q35-10.0", "160"
#: the address of every card: the two of a failover pair have one, on either side of a migration
MAC = "52:54:00:00:00:10"
#: seconds for the guest to boot; it takes 15
BOOT = 300.0
#: what it says when it has its cards
CARDS = "guest: cards"


def guest(folder: str, console: str) -> list[str]:
    """Return the words of a command line for the guest, without a primary; ``folder`` has its kernel."""
    words = ["-kernel", f"{folder}/kernel", "-initrd", f"{folder}/inner.gz", "-serial", f"file:{console}"]
    words += ["-append", "console=ttyS0 no_timer_check nowatchdog quiet panic=-1"]
    words += ["-device", "pcie-root-port,id=rp0,chassis=1,slot=1", "-netdev", "user,restrict=on,id=n0"]
    return [*words, "-device", f"virtio-net-pci,id=net0,failover=on,netdev=n0,mac={MAC},romfile="]


async def saved(home: Path, newer: Path) -> Path:
    """Return the guest's state, made if it is not there yet; raises LabUnavailable with one line."""
    state = home / "state/guest"
    if not state.exists():
        print("vfio-lab: booting a small Linux guest once, to save its state", file=sys.stderr)
        with TemporaryDirectory(prefix="vfio-guest") as folder:
            try:
                await boot(home, newer / "qemu-system-x86_64", Path(folder), state)
            except (QemuDied, TimeoutError) as error:
                raise LabUnavailable(f"the small Linux guest does not boot: {error!r}") from error
    return state


async def boot(home: Path, binary: Path, folder: Path, state: Path) -> None:
    """Boot the guest, and migrate it into a file when it has its cards."""
    words = guest(str(home / "root/guest"), str(folder / "console"))
    part = state.with_suffix(".part")
    async with Qemu(binary, folder, words, machine=MACHINE, memory=MEMORY) as qemu, connected(qemu.monitors[0]) as qmp:
        async with asyncio.timeout(BOOT):
            while CARDS not in (folder / "console").read_text(errors="replace"):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.5)
            await qmp.ask("migrate", {"uri": f"file:{part}"})
            while (status := await migrated(qmp)) not in ("completed", "failed"):  # noqa: ASYNC110 -- likewise
                await asyncio.sleep(0.2)
        if status == "failed":
            raise LabUnavailable("the small Linux guest cannot be saved")
    part.rename(state)


async def migrated(qmp: Client) -> str:
    """Return the state of the migration."""
    return str((await qmp.ask("query-migrate"))["return"].get("status"))
