"""Whether QEMU can connect to its own monitor. Then a client can make it do so, and bypass the guard.

QEMU serves one connection of a monitor, and the next one waits. When the guard's ends, the waiting one is served, and
its requests are executed unjudged. It concerns a socket at which QEMU listens: a socket pair (`exec`) and a connection
that QEMU makes itself (`--qemu-listen`) cannot be connected to. Of a passed descriptor nothing is known.

Permissions are read as the mode bits say them. Access lists, and mounts that only QEMU has, are not looked at.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.address import FdAddress, Inbound, TcpAddress, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from qmpguard.address import QemuAddress
    from qmpguard.config import VmConfig
    from qmpguard.proxy.listening.peer import ProcessIdentity

#: the user that the kernel shows for one of another user namespace (/proc/sys/kernel/overflowuid)
UNKNOWN_USER = 65534
_HARM = "a client can make it do so, and be served without the guard when the guard's connection ends"
_WAYS = (
    "start QEMU by `qmpguard exec`, let it connect to the guard (--qemu-listen), or use --takeover with a QEMU that "
    "runs neither as root nor as the guard's user"
)
_BY_TCP = (
    "QEMU listens at {address}: QEMU itself, and every process that reaches this port, can connect to the monitor, and "
    "be served without the guard when the guard's connection ends; start QEMU by `qmpguard exec`, or let it connect to "
    "a unix socket of the guard (--qemu-listen)"
)


def exposure(address: QemuAddress, qemu: ProcessIdentity | None) -> str:
    """Return a note that a connected QEMU can connect to its own monitor; empty where it cannot, or it is unknown."""
    if isinstance(address, TcpAddress):
        return _BY_TCP.format(address=address)
    if not isinstance(address, UnixAddress) or qemu is None or qemu.pid == os.getpid():
        return ""
    if qemu.uid == UNKNOWN_USER or not may_connect(address.path, qemu.uid, {qemu.gid, *_groups(qemu.pid)}):
        return ""
    return f"QEMU, which runs as user {qemu.uid}, can connect to its own monitor at {address}: {_HARM}; {_WAYS}"


def expected_exposure(vm: VmConfig) -> str:
    """Return the same for a VM's settings, from the owner of QEMU's socket; empty where there is no socket yet."""
    match vm.qemu:
        case TcpAddress():
            return _BY_TCP.format(address=vm.qemu)
        case Inbound() | FdAddress():
            return ""
        case UnixAddress(path):
            return _expected(vm.takeover or path, is_taken_over=vm.takeover is not None)


def may_connect(path: str, user: int, groups: Collection[int]) -> bool:
    """Say whether a user may connect to a unix socket. False where there is none, or this user cannot look."""
    if path.startswith("\0"):  # an abstract name has no permissions (unix(7))
        return True
    try:
        return all(_permits(one, bit, user, groups) for one, bit in _steps(os.path.realpath(path)))
    except (OSError, ValueError):
        return False


def _expected(path: str, *, is_taken_over: bool) -> str:
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return ""
    owner = status.st_uid
    if not stat.S_ISSOCK(status.st_mode) or not may_connect(path, owner, {status.st_gid}) or (is_taken_over and owner):
        return ""
    if owner == 0:
        return f"if QEMU runs as root, as the owner of {path}, it can connect to its own monitor: {_HARM}; {_WAYS}"
    return f"QEMU, as the owner of {path}, can connect to its own monitor: {_HARM}; {_WAYS}"


def _steps(path: str) -> Iterator[tuple[Path, int]]:
    """Yield each directory on the way to a socket, then the socket, with the permission that connect(2) needs there."""
    for directory in reversed(Path(path).parents):
        yield directory, stat.S_IXOTH
    yield Path(path), stat.S_IWOTH


def _permits(path: Path, bit: int, user: int, groups: Collection[int]) -> bool:
    status = path.stat()
    if user == 0:
        return True
    if status.st_uid == user:
        return bool(status.st_mode & bit << 6)
    return bool(status.st_mode & (bit << 3 if status.st_gid in groups else bit))


def _groups(pid: int) -> list[int]:
    """Return the supplementary groups of a process; none where /proc hides it."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith("Groups:"):
                return [int(group) for group in line.split()[1:]]
    return []
