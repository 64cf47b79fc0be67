"""A guard in its own process, seen from outside: its log, its descriptors, its memory, its end."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.support.guarding import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

#: seconds for a process to end after SIGTERM: requests under way have five, and a busy machine is slow
END = 30.0
#: a date that no clock says; a client that can write it at the beginning of a line has forged the line
FORGED = "2001-01-01T00:00:00+0000"
#: characters in a line of the log; what clients and QEMU say is cut long before
LONGEST = 8192
#: odd lines that a fault shows
SHOWN = 8
#: how a line begins
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+0000 (DEBUG|INFO|WARNING|ERROR|CRITICAL) |qmpguard \S+ ready: ")
#: what no input may lead to
TRACE = re.compile(r"Traceback|Exception ignored|never retrieved|ResourceWarning|task=\S+ failed: ")


class Process:
    """A running guard; ``log`` is the file that its standard error goes to."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log
        self._folder = Path("/proc") / str(process.pid)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None

    @property
    def descriptors(self) -> int:
        """Open descriptors; 0 when it has ended."""
        with suppress(OSError):
            return len(list((self._folder / "fd").iterdir()))
        return 0

    @property
    def memory(self) -> float:
        """Resident, in MiB; 0 when it has ended."""
        with suppress(OSError, IndexError):
            return int((self._folder / "statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)
        return 0.0

    @property
    def cpu(self) -> float:
        """Seconds of CPU time that it has used."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    async def says(self, text: str, count: int = 1) -> None:
        """Wait until the log has a text so many times; raises `AssertionError` when the process ends before."""
        await eventually(lambda: self.text.count(text) >= count or not self.alive)
        assert self.text.count(text) >= count, f"the guard ended with {self.process.returncode}: {self.text[-2000:]}"

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = END) -> int | None:
        """Return its exit code after a signal; None: it had to be killed."""
        if not self.alive:
            return self.process.returncode
        self.send(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self.process.wait()
        self.send(signal.SIGKILL)
        await self.process.wait()
        return None

    def faults(self) -> list[str]:
        """Return the lines of the log that no input may lead to."""
        odd = [line for line in self.text.split("\n") if line and _is_odd(line)]
        told = [line for line in odd if not line.startswith(" ")]  # without the frames of a trace
        return [f"in the log: {line[:300]!r}" for line in (told or odd)[:SHOWN]]


def _is_odd(line: str) -> bool:
    sane = LINE.match(line) and line.isprintable() and len(line) <= LONGEST
    return not sane or line.startswith(FORGED) or TRACE.search(line) is not None


def _limits(limits: Mapping[int, int]) -> None:
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


@asynccontextmanager
async def guard_process(
    folder: Path,
    *arguments: str,
    limits: Mapping[int, int] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    flags: Sequence[str] = ("-W", "error"),
) -> AsyncGenerator[Process]:
    """Run ``qmpguard ARGUMENTS``, and end it at the end.

    ``limits``: resource limits of the process. ``stderr``: where its log goes in place of ``guard.log`` in the folder.
    """
    log = folder / "guard.log"
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *flags, "-m", "qmpguard", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=file,
            stderr=file if stderr is None else stderr,
            pass_fds=pass_fds,
            preexec_fn=(lambda: _limits(limits)) if limits else None,
            env={k: v for k, v in os.environ.items() if not k.startswith("QMPGUARD_")},
        )
    guard = Process(process, log)
    try:
        yield guard
    finally:
        await guard.end()


def vm_table(folder: Path, name: str, **more: str) -> str:
    """Return the TOML of a VM: QEMU at NAME.qemu, clients at NAME.sock. ``more``: values as TOML writes them."""
    values = {"name": f'"{name}"', "qemu": f'"{folder}/{name}.qemu"', "listen": f'"{folder}/{name}.sock"', **more}
    return "[[vm]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items() if value)
