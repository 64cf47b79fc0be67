"""Processes to be measured: the guard and what it is compared with, and what the kernel says of their cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


@contextmanager
def process(*command: str, ready: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for a while; ``ready``: begin when it has said a line on standard output."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        try:
            if ready:
                assert running.stdout is not None
                running.stdout.readline()
            yield running
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()


def guard(qemu: Path, listen: Path) -> Sequence[str]:
    """Return the command of the guard, as a user would give it."""
    run = ("--qemu", str(qemu), "--listen", str(listen), "--log-level", "error")
    return (sys.executable, "-m", "qmpguard", "run", *run)


def socat(qemu: Path, listen: Path) -> Sequence[str]:
    """Return the command of a relay in C."""
    return ("socat", f"UNIX-LISTEN:{listen}", f"UNIX-CONNECT:{qemu}")


def bare(qemu: Path, listen: Path) -> Sequence[str]:
    """Return the command of the least that asyncio can do."""
    return (sys.executable, "-m", "benchmarks.bare_relay", str(qemu), str(listen))


def obvious(qemu: Path, listen: Path) -> Sequence[str]:
    """Return the command of the proxy that one would write first."""
    return (sys.executable, "-m", "benchmarks.obvious_relay", str(qemu), str(listen))


#: how to get to QEMU but directly
WAYS = {"socat": socat, "bare asyncio relay": bare, "guard": guard, "qemu.qmp relay": obvious}


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, all threads, in nanoseconds' precision (proc(5): schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory(pid: int) -> dict[str, float]:
    """Return what a process holds in MiB: Rss, and Pss, which is its fair part of what it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {name: amount for name, _, amount in (line.partition(":") for line in lines)}
    return {name: int(sizes[name].split()[0]) / 1024 for name in ("Rss", "Pss")}
