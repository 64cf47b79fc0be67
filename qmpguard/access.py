"""Who may use a VM's socket, and what for. Peers are told apart by what the kernel says of them (SO_PEERCRED)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmpguard.record import Peer

#: the id of every user and group that has none here, as through a user namespace (/proc/sys/kernel/overflowuid)
OVERFLOW = 65534


class Role(Enum):
    """What the clients of a socket may do."""

    OPERATOR = "operator"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Access:
    """The users and groups that may come in; None: no list. With both lists, one of them is enough."""

    users: frozenset[int] | None = None
    groups: frozenset[int] | None = None

    @property
    def is_open(self) -> bool:
        """Say whether everybody who reaches the socket may come in."""
        return self.users is None and self.groups is None

    def refusal(self, peer: Peer) -> str | None:
        """Return why a client may not come in; None where it may."""
        if self.is_open:
            return None
        if peer.uid is None:
            return "nobody can tell who it is"
        if peer.uid == OVERFLOW:
            return f"its user has no id here ({OVERFLOW}: another user namespace)"
        if self.users is not None and peer.uid in self.users:
            return None
        if self.groups is not None and self.groups & ({peer.gid, *peer.groups} - {OVERFLOW}):
            return None
        return f"user {peer.uid} is on no list"


#: without lists
OPEN = Access()
