"""``qmpguard run``: guard a QEMU."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qmpguard.settings.options import OptionValues, add_options

if TYPE_CHECKING:
    import argparse

    from qmpguard.config import Config

SUMMARY = "guard a QEMU"
DESCRIPTION = "Guard a QEMU's QMP socket."

#: the FileDescriptorName= in systemd/qmpguard@.socket
SOCKET = "qmp"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; each has a form in the environment, for containers."""
    add_options(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Guard until SIGTERM or SIGINT."""
    from qmpguard.signals import Signals

    signals = Signals()
    signals.start()
    from qmpguard.daemon.openfiles import raise_limit
    from qmpguard.daemon.serve import serve
    from qmpguard.daemon.systemd import take_sockets
    from qmpguard.logs.stderr import log_to_stderr
    from qmpguard.settings.read import read_options

    sockets = take_sockets()
    fallback = {"listen": f"fd:{SOCKET}"} if SOCKET in sockets and arguments.takeover is None else {}

    def load() -> Config:
        return read_options(OptionValues(vars(arguments), fallback=fallback)).config

    config = load()
    log_to_stderr(config.log)
    raise_limit()
    asyncio.run(serve(config, signals, sockets, load))
    return 0
