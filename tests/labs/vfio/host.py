"""The running lab: a Linux guest in a QEMU of its own, told what to do by a shell over a socket.

Every port of the guest is a unix socket here, so two labs on a machine never meet. The guest is emulated (TCG) unless
QMPGUARD_LAB_ACCEL says `kvm`.
"""

from __future__ import annotations

import asyncio
import os
import shlex
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from qmpguard.demo.lab import LabUnavailable
from tests.labs.vfio.built import debian, qemu11
from tests.labs.vfio.saved import MAC, saved

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

#: seconds for the guest to be ready; it takes 10 to 30, and longer on a busy machine
BOOT = 240.0
#: seconds for the guest's shell to say that it is there
KNOCK = 5.0
#: seconds for a script in the guest
SCRIPT = 120.0
#: the guest's port of the shell, and those for the QEMUs' monitors behind it
SHELL, MONITORS = 7000, range(7001, 7049)
#: where a shell says that a script has ended
END = b"lab-end "
#: MiB of the guest, and what its QEMU needs beside them
MEMORY, BESIDE = 3072, 256
#: PCI addresses in the guest of devices on vfio-pci that cannot migrate: network cards, and an NVMe
CARDS, NVME = ("0000:00:10.0", "0000:00:11.0", "0000:00:12.0"), "0000:00:13.0"
#: what the guest's kernel says when a driver has failed: nothing after that can be believed
OOPS = ("BUG: ", "Oops: ", "general protection fault", "Kernel panic")


class LabFailed(AssertionError):  # noqa: N818 - says what happened
    """The lab did not do what a case needs of it; the text has what was said."""


class Lab:
    """A booted lab. ``folder`` holds the sockets and the guest's console."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._free = list(MONITORS)
        self._count = 0

    @property
    def console(self) -> str:
        """Return what the guest has said."""
        return (self.folder / "console").read_text(errors="replace")

    def socket(self, port: int) -> Path:
        """Return the unix socket that leads to a port of the guest."""
        return self.folder / f"p{port}"

    def take(self, count: int) -> list[int]:
        """Return ports that no other QEMU of this lab has."""
        ports = [self._free.pop(0) for _ in range(count)]
        self._free += ports  # the one that was used last comes last
        return ports

    def fresh(self) -> int:
        """Return a number that nothing in this lab has yet."""
        self._count += 1
        return self._count

    async def run(self, script: str, limit: float = SCRIPT) -> str:
        """Return what a script says in the guest; raises LabFailed when it fails or does not end."""
        status, said = await self.attempt(script, limit)
        if status:
            raise LabFailed(f"{script.strip()[:200]}: {said.strip()[-2000:]}")
        return said

    async def attempt(self, script: str, limit: float = SCRIPT) -> tuple[int, str]:
        """Return how a script ended in the guest and what it said; raises LabFailed when it does not end."""
        line = f"bash -c {shlex.quote(script)} </dev/null 2>&1; status=$?; echo; echo lab-end $status\n"
        try:
            async with asyncio.timeout(limit):
                while (said := await self._once(line.encode())) is None:  # noqa: ASYNC110 -- nothing tells
                    await asyncio.sleep(0.5)  # the port accepts before the shell listens
        except TimeoutError:
            raise LabFailed(f"{script.strip()[:200]}: no end after {limit:.0f} s") from None
        text, _, status = said.rpartition(END)
        return int(status), text.decode(errors="replace").removesuffix("\n")

    async def answers(self) -> bool:
        """Return whether the guest's shell is there."""
        try:
            async with asyncio.timeout(KNOCK):
                return await self._once(b"echo; echo lab-end 0\n") is not None
        except TimeoutError:
            return False

    async def _once(self, line: bytes) -> bytes | None:
        """Return what the shell says up to its end mark; None when nobody was there."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket(SHELL))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        try:
            writer.write(line)
            said = b""
            while data := await reader.read(1 << 16):
                said += data
                if said.rpartition(b"\n" + END)[2].endswith(b"\n") and b"\n" + END in said:
                    return said
        except ConnectionError:
            pass
        finally:
            writer.close()
        return None


async def prepared() -> tuple[Path, Path]:
    """Return the folders of the lab's Debian and of QEMU 11.1, made where they are missing; raises LabUnavailable."""
    home, newer = debian(), qemu11()
    await saved(home, newer)
    return home, newer


@asynccontextmanager
async def booted() -> AsyncGenerator[Lab]:
    """Boot the lab, and end it at the end; raises LabUnavailable or LabFailed."""
    home, newer = await prepared()
    with TemporaryDirectory(prefix="vfio-lab") as place:
        folder = Path(place)
        with (folder / "nvme").open("wb") as disk:
            disk.truncate(64 << 20)
        process = await asyncio.create_subprocess_exec(
            *command(folder, home, newer),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            lab = Lab(folder)
            await ready(lab, process)
            yield lab
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


def at_once(meminfo: str | None = None) -> int:
    """Return for how many labs at once this machine has memory; raises LabUnavailable where it has too little for one.

    ``meminfo`` is the text of /proc/meminfo.
    """
    lines = (meminfo or Path("/proc/meminfo").read_text()).splitlines()
    free = next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable:"))
    if free < MEMORY + BESIDE:
        raise LabUnavailable(f"the lab's guest needs {MEMORY + BESIDE} MiB of memory, and {free} MiB are free")
    return free // (MEMORY + BESIDE)


async def ready(lab: Lab, process: asyncio.subprocess.Process) -> None:
    """Wait until the guest's shell answers; raises LabUnavailable with the reason when the guest does not come up."""
    try:
        async with asyncio.timeout(BOOT):
            while process.returncode is None:
                if await lab.answers():
                    return
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise LabUnavailable(f"the lab's guest is not up after {BOOT:.0f} s: {last_words(lab.console)}") from None
    said = (await process.stderr.read()).decode(errors="replace") if process.stderr else ""
    raise LabUnavailable(f"the lab's guest ended: {last_words(said or lab.console)}")


def last_words(said: str) -> str:
    """Return the end of what was said, on one line."""
    return "; ".join(line.strip() for line in said[-300:].splitlines() if line.strip())


def command(folder: Path, home: Path, newer: Path) -> list[str]:
    """Return the command line of the lab's own QEMU."""
    words = [str(newer / "qemu-system-x86_64"), "-accel", os.environ.get("QMPGUARD_LAB_ACCEL", "tcg,thread=multi")]
    words += ["-M", "q35,kernel-irqchip=split", "-cpu", "max", "-smp", "2", "-m", str(MEMORY)]
    words += ["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", f"file:{folder}/console"]
    words += ["-kernel", str(home / "root/guest/kernel"), "-initrd", str(home / "root/guest/outer.gz")]
    # a busy machine would make the kernel doubt its timer and panic
    words += ["-append", "console=ttyS0 quiet panic=-1 intel_iommu=on no_timer_check nowatchdog"]
    words += ["-device", "intel-iommu,intremap=on"]
    for tag, path in (("root", home / "root"), ("qemu11", newer), ("state", home / "state")):
        words += ["-fsdev", f"local,id={tag},path={path},security_model=none,readonly=on"]
        words += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    ways = "".join(f",hostfwd=unix:{folder}/p{port}-:{port}" for port in (SHELL, *MONITORS))
    words += ["-netdev", f"user,restrict=on,id=net{ways}", "-device", "virtio-net-pci,netdev=net,romfile="]
    for address in CARDS:
        words += ["-device", f"e1000e,addr={address[8:]},mac={MAC},romfile="]
    words += ["-drive", f"if=none,id=disk,format=raw,file={folder}/nvme"]
    return [*words, "-device", f"nvme,drive=disk,serial=lab,addr={NVME[8:]}"]
