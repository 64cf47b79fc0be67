"""The handover of links to the next process of a guard, in systemd's descriptor store (sd_notify(3): FDSTORE).

A process stores its links as its last action, and the next process takes them out as its first. So a process that is
killed never leaves a link in the store that was still in use.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

from qmpguard.proxy.qemu.handover import Inheritance, decode
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.daemon.guard import Guard
    from qmpguard.daemon.systemd import Notifier, PassedSockets
    from qmpguard.proxy.qemu.handover import Handover

log = logging.getLogger(__name__)

#: the prefix of a link's name in the store; each link is a socket and a memory file with its handover
PREFIX = "link-"
#: bytes of a handover
MAX_HANDOVER = 1 << 20


def restore_links(sockets: PassedSockets, notifier: Notifier, guards: Mapping[str, Guard]) -> None:
    """Give each guard its stored link, and close the links of VMs that are not configured any more."""
    for name, numbers in sockets.take(PREFIX).items():
        notifier.forget(name)
        inheritance = _inheritance(numbers)
        if inheritance is None:
            continue
        guard = guards.get(inheritance.handover.vm)
        if guard is None or str(guard.config.qemu) != inheritance.handover.qemu:
            inheritance.sock.close()
        else:
            guard.vm.connections.inherit(inheritance)


async def store_links(notifier: Notifier, guards: Mapping[str, Guard]) -> None:
    """Store each link without a pending request for the next process. After this, no guard has a link."""
    if not notifier.is_available:
        return
    async with Tasks() as tasks:
        for guard in guards.values():
            tasks.start("bequeath", _store_link(notifier, guard))
    await notifier.barrier()


async def _store_link(notifier: Notifier, guard: Guard) -> None:
    inheritance = await guard.vm.release()
    if inheritance is not None:
        with inheritance.sock as sock:
            _store(notifier, sock, inheritance.handover)


def _store(notifier: Notifier, sock: socket.socket, handover: Handover) -> None:
    number = os.memfd_create("qmpguard-handover")
    try:
        os.write(number, handover.encode())
        notifier.store(f"{PREFIX}{os.urandom(8).hex()}", [sock.fileno(), number])
    finally:
        os.close(number)


def _inheritance(numbers: list[int]) -> Inheritance | None:
    """Return the link of some stored descriptors; None, after closing them, where they are not a link."""
    socks = [number for number in numbers if stat.S_ISSOCK(os.fstat(number).st_mode)]
    rest = [number for number in numbers if number not in socks]
    try:
        if len(socks) != 1 or len(rest) != 1:
            raise ValueError(f"{len(numbers)} descriptors")  # systemd drops a socket that QEMU has closed
        handover = decode(os.pread(rest[0], MAX_HANDOVER, 0))
        return Inheritance(socket.socket(fileno=socks.pop()), handover)
    except (ValueError, OSError) as error:
        log.info("a stored link cannot be used; connecting to QEMU again: %s", error)
        return None
    finally:
        for number in (*socks, *rest):
            os.close(number)
