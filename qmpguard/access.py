"""Access to a VM's socket: the users and groups that may connect, and the role of clients.

A peer's user and groups come from the kernel (SO_PEERCRED).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpguard.record import Peer

#: the id of users and groups that are not mapped into this user namespace (/proc/sys/kernel/overflowuid)
OVERFLOW = 65534


class Role(Enum):
    """The rights of a socket's clients: all commands, or queries only."""

    OPERATOR = "operator"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Access:
    """The users and groups that may connect; None: no list. With both lists, a match in one of them is enough."""

    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None

    @property
    def is_open(self) -> bool:
        """Say whether there is no list, so that every peer may connect."""
        return self.users is None and self.groups is None

    def refusal(self, peer: Peer) -> str | None:
        """Return why a peer is refused; None where it may connect."""
        if self.is_open:
            return None
        if peer.uid is None:
            return "it has no user: not a unix socket"
        if peer.uid == OVERFLOW:
            return f"its user has no id here ({OVERFLOW}: another user namespace)"
        if self.users is not None and peer.uid in self.users:
            return None
        if self.groups is not None and self.groups & ({peer.gid, *peer.groups} - {OVERFLOW}):
            return None
        return f"user {peer.uid} is on no list"


#: without lists
OPEN = Access()
