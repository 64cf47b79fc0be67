"""Links to QEMU between two processes of a guard: in systemd's descriptor store (sd_notify(3): FDSTORE).

A process leaves a link there as the last thing that it does, and the next one takes it out as its first. So whatever
a process has to be killed for, what is in the store is never a link that somebody was still using.
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

#: what the names of links in the store begin with; each has a socket and a file with its handover
PREFIX = "link-"
#: bytes of a handover at most
MAX_HANDOVER = 1 << 20


def inherit(sockets: PassedSockets, notifier: Notifier, guards: Mapping[str, Guard]) -> None:
    """Give each guard the link that was left for it, and close what nobody wants."""
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


async def bequeath(notifier: Notifier, guards: Mapping[str, Guard]) -> None:
    """Leave the links that are at rest to the next process. After this, no guard has a link."""
    if not notifier.is_heard:
        return
    async with Tasks() as tasks:
        for guard in guards.values():
            tasks.start("bequeath", _leave(notifier, guard))
    await notifier.barrier()


async def _leave(notifier: Notifier, guard: Guard) -> None:
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
    """Return the link that some descriptors are; None, and they are closed, where they are none."""
    socks = [number for number in numbers if stat.S_ISSOCK(os.fstat(number).st_mode)]
    rest = [number for number in numbers if number not in socks]
    try:
        if len(socks) != 1 or len(rest) != 1:
            raise ValueError(f"{len(numbers)} descriptors")  # systemd drops a socket that QEMU has closed
        handover = decode(os.pread(rest[0], MAX_HANDOVER, 0))
        return Inheritance(socket.socket(fileno=socks.pop()), handover)
    except (ValueError, OSError) as error:
        log.info("a link that was left cannot be used, and is made anew: %s", error)
        return None
    finally:
        for number in (*socks, *rest):
            os.close(number)
