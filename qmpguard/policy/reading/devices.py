"""Readers of the commands that add devices, network back ends, block nodes and whatever listens at a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy import blocks, sockets
from qmpguard.policy.built_in_combinations import names
from qmpguard.policy.description import described
from qmpguard.policy.device import is_vfio
from qmpguard.policy.netdevs import MAX_FORWARDS, opens_monitor, program_of
from qmpguard.policy.operations import AddDevice, OpenBlockNode, OpenMonitor, RunProgram, UseAddress, WriteHmp
from qmpguard.policy.reading.result import TOO_MANY, Arguments, Harmless, Reading, Unreadable
from qmpguard.policy.values import TooManyError

if TYPE_CHECKING:
    from qmpguard.policy.policy import Policy


def read_device_add(arguments: Arguments, policy: Policy) -> Reading:
    """``device_add``: one device more, if its driver is a VFIO type, or one that a combination names."""
    match arguments.get("driver"):
        case str(driver) if is_vfio(driver, policy.extra_types):
            return AddDevice(described(driver, arguments))
        case str(driver) if names(driver, policy):
            return AddDevice(described(driver, arguments), is_vfio=False)
        case str():
            return Harmless()
        case _:
            return Unreadable("'driver' is not a string")


def read_netdev_add(arguments: Arguments, policy: Policy) -> Reading:
    """``netdev_add``: of interest for the monitor that a `guestfwd` opens, and for scripts and helpers that it runs."""
    forwards = arguments.get("guestfwd")
    if isinstance(forwards, list) and len(forwards) > MAX_FORWARDS:
        return Unreadable(f"'guestfwd' has more than {MAX_FORWARDS} entries")
    if opens_monitor(arguments):
        return OpenMonitor("netdev_add with 'guestfwd' to a monitor")
    program = program_of(arguments)
    return RunProgram(f"netdev_add with {program}") if program else read_addresses(arguments, policy)


def read_block_command(arguments: Arguments, policy: Policy) -> Reading:
    """``blockdev-add`` and its like: of interest for a node that is a VFIO device (`nvme` and its like)."""
    try:
        node = blocks.opened(dict(arguments))
    except TooManyError:
        return TOO_MANY
    return read_addresses(arguments, policy) if node is None else OpenBlockNode(node)


def read_block_line(name: str, text: str) -> Reading:
    """A line of HMP that opens a block node, likewise."""
    try:
        node = blocks.opened_by_line(text)
    except TooManyError:
        return Unreadable(f"{name} with escapes in JSON")
    return WriteHmp(name) if node is None else OpenBlockNode(node)


def read_addresses(arguments: Arguments, policy: Policy) -> Reading:
    """``chardev-add`` and its like: of interest for the addresses at which QEMU listens, or to which it connects."""
    try:
        found = sockets.addresses(dict(arguments))
    except TooManyError:
        return TOO_MANY
    return UseAddress(found) if found else Harmless()
