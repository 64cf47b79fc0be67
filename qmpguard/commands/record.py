"""``qmpguard record``: write down a conversation with a QEMU."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from qmpguard.config import Config

SUMMARY = "write down the conversation of clients with a QEMU"
DESCRIPTION = (
    "Listen for clients, pass their commands on to the QEMU at ADDR, and write each command with its reply, each event "
    "and the guard's verdict to FILE, one JSON object a line, without secrets. Nothing is refused unless --mode "
    "enforce is given: the file says what would be. Ends when QEMU ends, or at SIGTERM or SIGINT. To record beside "
    "the guard that you have, use `qmpguard run --record FILE`. Exit code 0: done; 69: a socket cannot be had; 78: "
    "FILE cannot be written."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("address", metavar="ADDR", help="QEMU's QMP socket")
    parser.add_argument("file", metavar="FILE", help="the recording; lines are appended")
    parser.add_argument("--listen", metavar="ADDR", help="the address where clients connect (default: FILE.sock)")
    parser.add_argument(
        "--mode", choices=("enforce", "warn"), default="warn", help="enforce: refuse as a guard does (default: warn)"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Record until QEMU ends, or until SIGTERM or SIGINT."""
    from qmpguard.signals import Signals

    signals = Signals()
    signals.start()
    from qmpguard.daemon.openfiles import raise_limit
    from qmpguard.daemon.serve import serve
    from qmpguard.logs.stderr import log_to_stderr

    config = _config(arguments)
    log_to_stderr(config.log)
    raise_limit()
    asyncio.run(serve(config, signals, None, lambda: config))
    return 0


def _config(arguments: argparse.Namespace) -> Config:
    """Return the configuration of a guard that records. Raises `UsageError`."""
    from qmpguard.address import parse_address
    from qmpguard.config import NAME, Config, LogConfig, VmConfig
    from qmpguard.policy.mode import Mode
    from qmpguard.policy.policy import Policy

    listen = parse_address(arguments.listen or f"unix:{arguments.file}.sock")
    vm = VmConfig(NAME, parse_address(arguments.address), listen, Policy(Mode(arguments.mode)))
    return Config((vm,), log=LogConfig(record=arguments.file), end_with_qemu=True)
