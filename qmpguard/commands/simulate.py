"""``qmpguard simulate``: a QEMU that is only simulated."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from qmpguard.address import Address
    from qmpguard.simulator.description import Description

SUMMARY = "speak QMP as a QEMU would, for tests without one"
DESCRIPTION = (
    "Listen at ADDR and speak QMP as a QEMU does: greeting, negotiation, schema, errors and events. FILE describes it: "
    "a TOML file with version, devices, capabilities, a migration's time and faults, or a recording. Without FILE it "
    "is the latest QEMU that is known, with nothing in it. No VM runs. Ends at the command quit, or at SIGTERM or "
    "SIGINT. Exit code 0: ended; 2: FILE cannot be read; 69: the socket cannot be had."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("address", metavar="ADDR", help="where clients connect, as at QEMU's QMP socket")
    parser.add_argument("file", metavar="FILE", nargs="?", help="a description in TOML, or a recording")


def execute(arguments: argparse.Namespace) -> int:
    """Simulate until told to end."""
    from qmpguard.address import parse_address

    return asyncio.run(_simulate(_description(arguments.file), parse_address(arguments.address)))


def _description(name: str | None) -> Description:
    from qmpguard.commands.replay import opened
    from qmpguard.simulator.description import Description, read_description

    if name is None:
        return Description()
    with opened(name) as file:
        return read_description(file.read(), name)


async def _simulate(description: Description, address: Address) -> int:
    import signal

    from qmpguard.simulator.server import simulating

    async with simulating(description, address) as qemu:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, qemu.monitor.die)
        print(f"simulated QEMU {qemu.machine.known.qemu} listens at {address}", flush=True)
        await qemu.monitor.ended.wait()
        await asyncio.sleep(0)
    return 0
