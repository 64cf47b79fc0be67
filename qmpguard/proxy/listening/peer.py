"""The peer of a socket, from the kernel: process, user and groups, and whether it has left again.

SO_PEERCRED is the process that connected or listened. That need not be QEMU: systemd and libvirt listen for it, and a
socket pair is made by the process that starts it. The sender of a message (SCM_CREDENTIALS) is QEMU itself.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from array import array
from pathlib import Path
from typing import NamedTuple

from qmpguard.record import Peer

#: supplementary groups of a peer (asm-generic/socket.h); Python has no name for it
SO_PEERGROUPS = 59
#: groups in the largest buffer that Python passes to getsockopt(2)
MAX_GROUPS = 256
_CREDENTIALS = struct.Struct("3i")
#: `started` in /proc/PID/stat, counted from the field behind the command's name (proc(5): field 22)
_STARTED, _PARENT = 19, 1


class ProcessIdentity(NamedTuple):
    """A process as the guard sees it: its PID and user, its parent, and its start time in clock ticks since boot.

    PID 0: a process of another PID namespace. Without ``started``, /proc hides the process.
    """

    pid: int
    uid: int
    gid: int = -1
    parent: int = 0
    started: int | None = None

    @property
    def is_hidden(self) -> bool:
        """Say whether it is in another PID namespace, so that it cannot be told from another process there."""
        return self.pid <= 0

    def is_same(self, other: ProcessIdentity) -> bool:
        """Say whether both are one process. Where a start time is unknown, the PID decides."""
        unknown = self.started is None or other.started is None
        return not self.is_hidden and self.pid == other.pid and (unknown or self.started == other.started)


def process_of(pid: int, uid: int = -1, gid: int = -1) -> ProcessIdentity:
    """Return a process, with its parent and its start time where /proc shows them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return ProcessIdentity(pid, uid, gid, int(fields[_PARENT]), int(fields[_STARTED]))
    except (OSError, ValueError, IndexError):
        return ProcessIdentity(pid, uid, gid)


async def receive_with_sender(sock: socket.socket, size: int) -> tuple[bytes, ProcessIdentity | None]:
    """Return bytes of a non-blocking socket, and the process that sent them; None where the kernel does not say.

    The kernel says it of messages that are sent while `set_credentials` is on. Descriptors with them are closed.
    Raises `OSError`.
    """
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size), socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            await _readable(sock)
        else:
            return data, _sender(ancillary)


def set_credentials(sock: socket.socket, *, on: bool) -> None:
    """Let the kernel tell the sender of each message of a unix socket, or not (unix(7): SO_PASSCRED)."""
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, on)


async def _readable(sock: socket.socket) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock.fileno())


def _sender(ancillary: list[tuple[int, int, bytes]]) -> ProcessIdentity | None:
    found = None
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            for number in array("i", data[: len(data) - len(data) % array("i").itemsize]):
                os.close(number)
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) == _CREDENTIALS.size:
            found = process_of(*_CREDENTIALS.unpack(data))
    return found


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


def has_hung_up(sock: socket.socket) -> bool:
    """Say whether the peer of a socket has closed it or has shut it down, also where bytes of it are still unread."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def _groups(sock: socket.socket) -> tuple[int, ...]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS * 4)
    except OSError:  # Linux before 4.13, or more groups than `MAX_GROUPS`
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
