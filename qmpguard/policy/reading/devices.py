"""Readers of the commands that add devices, network back ends, block nodes and listening sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy import blocks, sockets
from qmpguard.policy.argument_values import TooManyValuesError
from qmpguard.policy.built_in_combinations import names_type
from qmpguard.policy.descriptors import numbered
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
    UseDescriptor,
    WriteHmp,
)
from qmpguard.policy.reading.result import TOO_MANY, Arguments, Harmless, Reading, Unreadable

if TYPE_CHECKING:
    from qmpguard.policy.policy import Policy


def read_device_add(arguments: Arguments, policy: Policy) -> Reading:
    """``device_add``: judged where its driver is a VFIO type, or one that a combination names, and for descriptors."""
    try:
        number = numbered(dict(arguments))
    except TooManyValuesError:
        return TOO_MANY
    match arguments.get("driver"):
        case str(driver) if is_vfio(driver, policy.extra_types):
            return AddDevice(new_device(driver, arguments), addresses=_sockets_of(arguments), numbered=number)
        case str(driver) if names_type(driver, policy):
            return AddDevice(new_device(driver, arguments), is_vfio=False, numbered=number)
        case str():
            return UseDescriptor(number) if number else Harmless()
        case _:
            return Unreadable("'driver' is not a string")


def _sockets_of(arguments: Arguments) -> tuple[str, ...]:
    """Return the texts in the ``socket`` of a `vfio-user-pci`, nested or dotted. Raises `TooManyValuesError`."""
    return sockets.addresses({key: value for key, value in arguments.items() if key.partition(".")[0] == "socket"})


def read_netdev_add(arguments: Arguments, policy: Policy) -> Reading:
    """``netdev_add``: judged for monitors, programs, sockets and descriptors, and for its DMA."""
    forwards = arguments.get("guestfwd")
    if isinstance(forwards, list) and len(forwards) > MAX_FORWARDS:
        return Unreadable(f"'guestfwd' has more than {MAX_FORWARDS} entries")
    if opens_monitor(arguments):
        return OpenMonitor("netdev_add with 'guestfwd' to a monitor")
    try:
        found, number = sockets.addresses(dict(arguments)), numbered(dict(arguments))
    except TooManyValuesError:
        return TOO_MANY
    program = program_of(arguments)
    runs = program and f"netdev_add with {program}"
    if (back_end := shared_memory_netdev(arguments)) is not None:
        return AddNetdev(back_end, runs, addresses=found, numbered=number)
    if number is not None:
        return UseDescriptor(number, runs)
    return RunProgram(runs) if runs else _use(found)


def _use(addresses: tuple[str, ...]) -> Reading:
    return UseAddress(addresses) if addresses else Harmless()


def read_netdev_del(arguments: Arguments, policy: Policy) -> Reading:
    """``netdev_del``: remembered, since QEMU does not show which back ends there are."""
    identity = arguments.get("id")
    return RemoveNetdev(identity) if isinstance(identity, str) else Harmless()


def read_block_command(arguments: Arguments, policy: Policy) -> Reading:
    """``blockdev-add`` and similar commands: judged for block nodes that are VFIO devices, such as `nvme`."""
    try:
        if (node := blocks.opened_vfio_node(dict(arguments))) is not None:
            return OpenBlockNode(node, sockets.addresses(dict(arguments)), numbered(dict(arguments)))
    except TooManyValuesError:
        return TOO_MANY
    return read_addresses(arguments, policy)


def read_block_line(name: str, text: str) -> Reading:
    """A line of HMP that opens a block node, likewise."""
    try:
        node = blocks.vfio_node_in_line(text)
    except TooManyValuesError:
        return Unreadable(f"{name} with escapes in JSON")
    return WriteHmp(name) if node is None else OpenBlockNode(node)


def read_addresses(arguments: Arguments, policy: Policy) -> Reading:
    """``chardev-add`` and similar commands: judged for the addresses at which QEMU listens, or to which it connects.

    And for descriptors by their numbers.
    """
    try:
        found, number = sockets.addresses(dict(arguments)), numbered(dict(arguments))
    except TooManyValuesError:
        return TOO_MANY
    return UseDescriptor(number) if number is not None else _use(found)
