"""Whether a process is a guarded QEMU, or was started by one: such a process is refused any change at the console.

A client can make QEMU connect to a socket and send bytes there, and in profile standard start a program. Neither may
begin an override. QEMU's process is the one that writes to the link (`ProcessIdentity`), so it does not matter by which
program QEMU was started or its socket opened. The guard's own process is never a QEMU: tests answer as one from within.

A process whose ancestors have ended is not recognised, nor one whose ancestors /proc hides from the guard (hidepid,
ProtectProc=): there only QEMU itself is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from qmpguard.proxy.listening.peer import process_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qmpguard.proxy.listening.peer import ProcessIdentity
    from qmpguard.record import Peer

#: generations that are looked at; a tree of processes is some ten deep
MAX_GENERATIONS = 256


def why_refused(peer: Peer, qemus: Mapping[str, ProcessIdentity | None]) -> str | None:
    """Return why a peer may change nothing; None: it may. ``qemus`` has the QEMU of each VM."""
    known = {vm: qemu for vm, qemu in qemus.items() if qemu is not None and qemu.pid != os.getpid()}
    if peer.pid is None:
        return None
    if peer.pid == 0:
        return _hidden(peer, known)
    if _has_ended(peer.pid):
        return f"process {peer.pid} has ended, so that it cannot be told from a QEMU's"
    for ancestor in ancestry(peer.pid):
        for vm, qemu in known.items():
            if qemu.is_same(ancestor):
                kin = "is" if ancestor.pid == peer.pid else "was started by"
                return (
                    f"process {peer.pid} {kin} the QEMU of VM {vm} (process {qemu.pid}), which may change nothing here"
                )
    return None


def ancestry(pid: int) -> Iterator[ProcessIdentity]:
    """Yield a process and its ancestors, as far as /proc shows them."""
    child = None
    for _ in range(MAX_GENERATIONS):
        process = process_of(pid)
        if child is not None and _is_younger(process, child):
            return  # the parent has ended, and its number was given to another process
        yield process
        if process.started is None or process.parent <= 0:
            return
        child, pid = process, process.parent


def _is_younger(process: ProcessIdentity, child: ProcessIdentity) -> bool:
    return process.started is not None and child.started is not None and process.started > child.started


def _hidden(peer: Peer, qemus: Mapping[str, ProcessIdentity]) -> str | None:
    """Return why a peer of another PID namespace is refused: it may be a QEMU there, of the same user."""
    for vm, qemu in qemus.items():
        if qemu.is_hidden and qemu.uid == peer.uid:
            return (
                f"a process of another PID namespace cannot be told from the QEMU of VM {vm}, which runs in one as the "
                "same user; run the command inside the guard's container"
            )
    return None


def _has_ended(pid: int) -> bool:
    try:
        os.close(os.pidfd_open(pid))
    except ProcessLookupError:
        return True
    except OSError:  # no descriptor is left, or a sandbox forbids the call
        return False
    return False
