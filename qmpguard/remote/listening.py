"""Which process listens at a unix socket, as the kernel and /proc tell it.

Nothing is sent to find out: it may be QEMU, which would read it when its monitor is free.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from qmpguard.address import Address, UnixAddress
from qmpguard.daemon.monitors import monitors

_CREDENTIALS = struct.Struct("3i")
#: characters of a command's word that are repeated
MAX_SHOWN = 200
#: states of /proc/PID/stat of a process that runs nothing until it is continued (proc(5))
_STOPPED = frozenset({"T", "t"})
_BUSY = (
    "another client has this monitor{of}, which talks to one client at a time, or QEMU hangs. Where the other client "
    "is a guard, give the guard's own socket"
)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that listens: its number, its command line, and whether it is stopped."""

    pid: int
    command: tuple[str, ...]
    stopped: bool

    @property
    def name(self) -> str:
        """The name of its program."""
        return Path(self.command[0]).name if self.command else "?"

    @property
    def is_qemu(self) -> bool:
        """Say whether it is a QEMU that runs a VM."""
        return self.name.startswith(("qemu-system", "qemu-kvm", "kvm"))

    @property
    def is_guard(self) -> bool:
        """Say whether it is a guard."""
        return any(Path(word).name == "qmpguard" for word in self.command[:8])


def listening(sock: socket.socket) -> Process | None:
    """Return the process that listens at the other end of a connected socket; None where that cannot be told."""
    try:
        pid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[0]
        if not pid:  # of another namespace, or no unix socket at all
            return None
        folder = Path("/proc", str(pid))
        command = (folder / "cmdline").read_text(errors="replace").rstrip("\0").split("\0")
        state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None
    return Process(pid, tuple(command), state in _STOPPED)


def why_silent(process: Process | None, address: Address) -> str:
    """Return why a socket may accept a connection and send no greeting."""
    if process is None:
        return _BUSY.format(of="") + "; or it is no QMP socket"
    if process.stopped:
        return f"process {process.pid} ({process.name}), which listens there, is stopped (SIGSTOP)"
    if process.is_guard:
        return (
            f"a guard (process {process.pid}) listens there. Either it has no QEMU yet, or this is not the socket of "
            "its clients: see qmpguard status"
        )
    if not process.is_qemu:
        return f"process {process.pid} ({process.name}) listens there, which is no QEMU"
    if (option := _other_use(process, address)) is not None:
        return (
            f"QEMU (process {process.pid}) has it as {option!r}, which is no monitor but a device's, as a guest agent's"
        )
    return _BUSY.format(of=f" of QEMU (process {process.pid})")


def _other_use(process: Process, address: Address) -> str | None:
    """Return the option of QEMU's command line that makes this socket something else than a monitor."""
    path = Path(address.path).name if isinstance(address, UnixAddress) else str(address)
    options = [f"{option} {value}" for option, value in pairwise(process.command) if option == "-chardev"]
    known = list(monitors(process.command))
    for option in (option for option in options if path in option):
        identity = next((part[3:] for part in option.replace(" ", ",").split(",") if part.startswith("id=")), "")
        if not any(identity in one for one in known):
            return option[:MAX_SHOWN]
    return None
