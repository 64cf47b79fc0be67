"""Who is at the other end of a unix socket, as the kernel says."""

from __future__ import annotations

import socket
import struct

from qmpguard.record import Peer

#: supplementary groups of a peer (asm-generic/socket.h); Python has no name for it
SO_PEERGROUPS = 59
#: bytes that getsockopt takes from Python at most, in groups
MAX_GROUPS = 256
_CREDENTIALS = struct.Struct("3i")


def peer_of(sock: socket.socket, number: int) -> Peer:
    """Return who is at the other end: of a unix socket its process, user and groups (unix(7): SO_PEERCRED).

    The groups are those that the process has, not those that a user data base gives its user. Raises `OSError`.
    """
    if sock.family != socket.AF_UNIX:
        return Peer(number)
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(number, pid, uid, gid, _groups(sock))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS * 4)
    except OSError:  # Linux before 4.13, or more groups than any list can want
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
