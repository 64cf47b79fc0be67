"""A guard of many VMs in one process: `python -m benchmarks.many DIRECTORY COUNT`, QEMUs at DIRECTORY/N.qemu."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import qmpguard.cli  # noqa: F401 - the real command has it in memory, too
from qmpguard.address import UnixAddress
from qmpguard.config import Config, VmConfig
from qmpguard.daemon.serve import serve
from qmpguard.signals import Signals


def config(folder: Path, count: int) -> Config:
    """Return what to guard: clients come in at DIRECTORY/N.sock."""
    return Config(
        tuple(
            VmConfig(f"vm{i}", UnixAddress(str(folder / f"{i}.qemu")), UnixAddress(str(folder / f"{i}.sock")))
            for i in range(count)
        )
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    signals = Signals()
    signals.start()
    asyncio.run(serve(config(Path(sys.argv[1]), int(sys.argv[2])), signals))
