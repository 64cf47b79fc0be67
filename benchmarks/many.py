"""A guard of many VMs in one process: `python -m benchmarks.many DIRECTORY COUNT`, QEMUs at DIRECTORY/N.qemu."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.__main__ import import_asyncio

if TYPE_CHECKING:
    from qmpguard.config import Config


def config(folder: Path, count: int) -> Config:
    """Return what to guard: clients come in at DIRECTORY/N.sock."""
    from qmpguard.address import UnixAddress
    from qmpguard.config import Config, VmConfig

    return Config(
        tuple(
            VmConfig(f"vm{i}", UnixAddress(str(folder / f"{i}.qemu")), UnixAddress(str(folder / f"{i}.sock")))
            for i in range(count)
        )
    )


def main() -> None:
    """Guard until SIGTERM, with what the real command has in memory."""
    import_asyncio()
    import asyncio
    import logging

    import qmpguard.cli  # noqa: F401
    from qmpguard.daemon.serve import serve
    from qmpguard.signals import Signals

    logging.basicConfig(level=logging.WARNING)
    signals = Signals()
    signals.start()
    asyncio.run(serve(config(Path(sys.argv[1]), int(sys.argv[2])), signals))


if __name__ == "__main__":
    main()
