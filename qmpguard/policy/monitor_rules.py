"""The rules about monitors: another one, a changed one, and QEMU turned against its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.problem import Problem
from qmpguard.policy.sockets import named_socket

if TYPE_CHECKING:
    from qmpguard.policy.machine import Machine
    from qmpguard.policy.policy import Policy


def new_monitor(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse what opens another monitor of this QEMU: it would be a way around the guard.

    These are `object-add` of `monitor-qmp` or `monitor-hmp`, `add_client` with any protocol but `vnc`, `spice` and
    `@dbus-display`, `netdev_add` of `user` with a `guestfwd` to `mon:` or to a character device with `mux`, and HMP's
    `gdbserver`, whose debugger can run monitor commands.
    """
    if machine.new_monitor is None:
        return None
    return Problem(f"{machine.new_monitor} would open a way around the guard", "connect to the guard's own socket")


def monitor_object(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse to change or remove a monitor: since QEMU 11.1 they are objects.

    These are `qom-set` of a monitor's property, and `object-del` of a monitor. With `close-action` set to `delete`,
    QEMU removes the guard's own monitor when its connection ends.
    """
    if machine.monitor_change is None or not machine.changed_type.startswith("monitor"):
        return None
    return Problem(f"{machine.monitor_change} would change a monitor of this QEMU", "leave the monitors as they are")


def own_socket(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse what would turn QEMU against its own monitor, or the guard's sockets.

    QEMU can connect to the socket at which it listens itself. When the guard's connection ends, QEMU serves that
    connection next, and executes the bytes that a client sends through it unjudged. Refused are sockets of network
    devices, character devices, block nodes, displays, NBD and migration with the name or the port of a listening socket
    of QEMU or of the guard; descriptors by their numbers, in any argument, since QEMU's own have numbers too; `yank` of
    a character device; and `object-add` of `qtest`, which can access guest RAM. A descriptor that was passed with
    `getfd`, and is used by its name, or with `add-fd`, passes.
    """
    if machine.turned_against_monitor is not None:
        return Problem(
            f"{machine.turned_against_monitor} would turn QEMU against its own monitor",
            "leave the monitors as they are",
        )
    if machine.numbered is not None:
        return Problem(
            f"'{machine.numbered}' names a descriptor by its number: that may be one of QEMU's own, as its monitor's",
            "pass the descriptor with getfd and use its name, or with add-fd",
        )
    own = named_socket(machine.addresses, machine.sockets) if machine.addresses else None
    if own is None:
        return None
    return Problem(f"QEMU or the guard listens at '{own}' itself", "use another address")
