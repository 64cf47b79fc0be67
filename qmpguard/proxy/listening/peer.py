"""The peer of a socket, from the kernel: process, user and groups, and whether it has left again."""

from __future__ import annotations

import errno
import select
import socket
import struct

from qmpguard.record import Peer

#: supplementary groups of a peer (asm-generic/socket.h); Python has no name for it
SO_PEERGROUPS = 59
#: groups in the largest buffer that Python passes to getsockopt(2)
MAX_GROUPS = 256
_CREDENTIALS = struct.Struct("3i")


def peer_of(sock: socket.socket, number: int) -> Peer:
    """Return the peer of a socket: of a unix socket its process, user and groups (unix(7): SO_PEERCRED).

    The groups are those of the process, not those of its user in the user database. Raises `OSError`.
    """
    if sock.family != socket.AF_UNIX:
        return Peer(number)
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(number, pid, uid, gid, _groups(sock))


def raise_if_left(sock: socket.socket) -> None:
    """Raise `ConnectionResetError` where the peer has closed its socket and left no bytes. Raises `OSError`.

    A peer that only shut down its sending side still reads (poll(2): POLLHUP is of both sides).
    """
    poll = select.poll()
    poll.register(sock, 0)
    if poll.poll(0) and not sock.recv(1, socket.MSG_PEEK):
        raise ConnectionResetError(errno.ECONNRESET, "it connected and left")


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS * 4)
    except OSError:  # Linux before 4.13, or more groups than `MAX_GROUPS`
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
