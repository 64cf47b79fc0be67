"""What the guard remembers of one QEMU, since no question to QEMU would tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.facts import Facts
from qmpguard.policy.migration import SNAPSHOTS
from qmpguard.policy.operations import AddNetdev, OpenMonitor, RemoveNetdev, SetCapabilities, StartMigration
from qmpguard.policy.problem import MAX_TEXT
from qmpguard.policy.qemu_check import seen_in
from qmpguard.policy.stale_capabilities import StaleCapabilities
from qmpguard.proxy.judging.refusal import was_accepted
from qmpguard.proxy.judging.remembered import RememberedDevices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.policy.device import Device
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.reading.result import Unreadable
    from qmpguard.wire.json import Value
    from qmpguard.wire.qemu_messages import Reply

#: ways around the guard that are named; one is as bad as many
MAX_WAYS = 8
#: standbys that are remembered; a guest has a few
MAX_STANDBYS = 1024


class Memory:
    """Memory of one QEMU; the next QEMU gets another.

    ``primaries`` are hidden failover primaries, ``negotiated`` the standbys whose guest has negotiated failover.
    ``netdevs`` are network back ends that access guest RAM; the argument holds those of its command line. ``confirmed``
    are the rules that this QEMU was seen to enforce by itself.
    ``ways_around`` is what was let through and opened a way around the guard, none of which can be taken back.
    ``version`` is QEMU's, as numbers.
    """

    def __init__(self, netdevs: tuple[Device, ...] = ()) -> None:
        self.primaries = RememberedDevices()
        self.negotiated: frozenset[str] = frozenset()
        self.netdevs = RememberedDevices(netdevs)
        self.stale = StaleCapabilities()
        self.confirmed: frozenset[str] = frozenset()
        self.ways_around: tuple[str, ...] = ()
        self.version: tuple[int, ...] | None = None

    def facts(self, commands: frozenset[str] | None, own: frozenset[str]) -> Facts:
        """Return it as facts, with the commands of QEMU's schema and the names of the guard's own sockets."""
        return Facts(
            hidden=self.primaries.devices,
            negotiated=self.negotiated,
            netdevs=self.netdevs.devices,
            commands=commands,
            left_on=self.stale.left_on,
            confirmed=self.confirmed,
            own=own,
            version=self.version,
        )

    def recall(self, facts: Facts) -> None:
        """Take what was remembered of the same QEMU before."""
        self.primaries.devices, self.netdevs.devices = facts.hidden, facts.netdevs
        self.negotiated, self.confirmed = facts.negotiated, facts.confirmed
        self.stale.left_on = facts.left_on

    def saw(self, facts: Facts) -> None:
        """Take what a survey has seen."""
        self.primaries.devices = facts.hidden
        if facts.standbys is not None:
            self.negotiated &= facts.standbys
        self.stale.saw(facts)

    def happened(self, event: str, data: Mapping[str, Value]) -> None:
        """Take an event. A standby that is plugged in again has negotiated nothing yet."""
        match event, data:
            case "FAILOVER_NEGOTIATED", {"device-id": str(standby)} if len(standby) <= MAX_TEXT:
                self.negotiated = (
                    self.negotiated | {standby} if len(self.negotiated) < MAX_STANDBYS else self.negotiated
                )
            case "DEVICE_DELETED", {"device": str(standby)}:
                self.negotiated -= {standby}
            case _:
                pass

    def on_reply(self, reading: Operation | Unreadable, reply: Reply | None) -> None:
        """Take what QEMU's reply to an operation tells. None: the operation may have been accepted."""
        match reading:
            case StartMigration(start) if reply is not None and start not in SNAPSHOTS:
                if was_accepted(reply):
                    self.stale.started()
                else:
                    self.confirmed |= seen_in(reply.text)
            case SetCapabilities(states):
                self.stale.switched_on(name for name, state in states if state)
            case OpenMonitor(how) if reply is None or was_accepted(reply):
                self.ways_around = tuple(dict.fromkeys((*self.ways_around, how[:MAX_TEXT])))[:MAX_WAYS]
            case AddNetdev(back_end) if reply is None or was_accepted(reply):
                self.netdevs.add(back_end)
            case RemoveNetdev(identity) if reply is not None and _is_gone(identity, reply):
                self.netdevs.forget(identity)
            case _:
                pass


def _is_gone(netdev: str, reply: Reply) -> bool:
    """Say whether a netdev is gone after the reply to `netdev_del`: removed, or there was none (net/net.c)."""
    return was_accepted(reply) or f"Device '{netdev}' not found" in reply.text
