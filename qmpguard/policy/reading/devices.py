"""Readers of the commands that add devices, network back ends, block nodes and listening sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy import blocks, sockets
from qmpguard.policy.argument_values import TooManyValuesError
from qmpguard.policy.built_in_combinations import names_type
from qmpguard.policy.device import is_vfio
from qmpguard.policy.netdevs import MAX_FORWARDS, opens_monitor, program_of, shared_memory_netdev
from qmpguard.policy.new_device import new_device
from qmpguard.policy.operations import (
    AddDevice,
    AddNetdev,
    OpenBlockNode,
    OpenMonitor,
    RemoveNetdev,
    RunProgram,
    UseAddress,
    WriteHmp,
)
from qmpguard.policy.reading.result import TOO_MANY, Arguments, Harmless, Reading, Unreadable

if TYPE_CHECKING:
    from qmpguard.policy.device import Device
    from qmpguard.policy.policy import Policy


def read_device_add(arguments: Arguments, policy: Policy) -> Reading:
    """``device_add``: judged where its driver is a VFIO type, or one that a combination names."""
    match arguments.get("driver"):
        case str(driver) if is_vfio(driver, policy.extra_types):
            return AddDevice(new_device(driver, arguments))
        case str(driver) if names_type(driver, policy):
            return AddDevice(new_device(driver, arguments), is_vfio=False)
        case str():
            return Harmless()
        case _:
            return Unreadable("'driver' is not a string")


def read_netdev_add(arguments: Arguments, policy: Policy) -> Reading:
    """``netdev_add``: judged for the monitor that a `guestfwd` opens, for programs that it runs, and for its DMA."""
    forwards = arguments.get("guestfwd")
    if isinstance(forwards, list) and len(forwards) > MAX_FORWARDS:
        return Unreadable(f"'guestfwd' has more than {MAX_FORWARDS} entries")
    if opens_monitor(arguments):
        return OpenMonitor("netdev_add with 'guestfwd' to a monitor")
    program = program_of(arguments)
    if (back_end := shared_memory_netdev(arguments)) is not None:
        return _netdev(back_end, program, read_addresses(arguments, policy))
    return RunProgram(f"netdev_add with {program}") if program else read_addresses(arguments, policy)


def _netdev(back_end: Device, program: str | None, addresses: Reading) -> Reading:
    match addresses:
        case UseAddress(found):
            return AddNetdev(back_end, program and f"netdev_add with {program}", addresses=found)
        case _:
            return addresses


def read_netdev_del(arguments: Arguments, policy: Policy) -> Reading:
    """``netdev_del``: remembered, since QEMU does not show which back ends there are."""
    identity = arguments.get("id")
    return RemoveNetdev(identity) if isinstance(identity, str) else Harmless()


def read_block_command(arguments: Arguments, policy: Policy) -> Reading:
    """``blockdev-add`` and similar commands: judged for block nodes that are VFIO devices, such as `nvme`."""
    try:
        node = blocks.opened_vfio_node(dict(arguments))
    except TooManyValuesError:
        return TOO_MANY
    return read_addresses(arguments, policy) if node is None else OpenBlockNode(node)


def read_block_line(name: str, text: str) -> Reading:
    """A line of HMP that opens a block node, likewise."""
    try:
        node = blocks.vfio_node_in_line(text)
    except TooManyValuesError:
        return Unreadable(f"{name} with escapes in JSON")
    return WriteHmp(name) if node is None else OpenBlockNode(node)


def read_addresses(arguments: Arguments, policy: Policy) -> Reading:
    """``chardev-add`` and similar commands: judged for the addresses at which QEMU listens, or to which it connects."""
    try:
        found = sockets.addresses(dict(arguments))
    except TooManyValuesError:
        return TOO_MANY
    return UseAddress(found) if found else Harmless()
