"""The service manager's side of a process: sockets that it holds for us, and what it wants to be told.

Both are plain: environment variables with descriptors from 3 on (sd_listen_fds(3)), and datagrams (sd_notify(3)).
Where there is no service manager, nothing is taken and nothing is told.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.address import Address, FdAddress, NamedAddress
from qmpguard.errors import ConfigError
from qmpguard.rate import LogRate

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from qmpguard.address import ListenAddress

log = logging.getLogger(__name__)

#: the first descriptor that is passed (sd_listen_fds(3): SD_LISTEN_FDS_START)
FIRST = 3
#: what a socket without a name is called (sd_listen_fds_with_names(3))
NAMELESS = "unknown"
#: seconds that the end of a process waits for a service manager to hear what it was told
BARRIER_TIMEOUT = 1.0
#: messages that wait at most for a service manager that does not read; a link that is left for the next process is one
MAX_WAITING = 1024
#: seconds between two tries to tell it
AGAIN = 0.1
#: seconds in which the log says once that it cannot be told
MINUTE = 60.0


class PassedSockets:
    """The listening sockets that the service manager holds for us, by name. They stay open as long as we run."""

    def __init__(self, numbers: Mapping[str, list[int]] | None = None) -> None:
        self._numbers = dict(numbers or {})
        self._unused = set(self._numbers)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def resolve(self, address: ListenAddress) -> Address:
        """Return an address that can be listened at: for a name a duplicate of its socket, which the caller owns.

        Raises `ConfigError` when no listening socket has that name, or more than one.
        """
        if not isinstance(address, NamedAddress):
            return address
        numbers = self._numbers.get(address.name, [])
        if len(numbers) != 1:
            raise ConfigError(f"{address}: {len(numbers) or 'no'} sockets of that name were passed; {self._passed()}")
        if not _listens(numbers[0]):
            raise ConfigError(f"{address}: not a listening stream socket; its unit needs ListenStream= and Accept=no")
        self._unused.discard(address.name)
        return FdAddress(os.dup(numbers[0]))

    def take(self, prefix: str) -> dict[str, list[int]]:
        """Return the descriptors whose names begin so, which the caller owns from now on."""
        names = [name for name in self._numbers if name.startswith(prefix)]
        self._unused.difference_update(names)
        return {name: self._numbers.pop(name) for name in names}

    @property
    def unused(self) -> list[str]:
        """The names that no address has asked for."""
        return sorted(self._unused)

    def _passed(self) -> str:
        names = ", ".join(sorted(self._numbers))
        return f"names (FileDescriptorName= in the socket unit): {names}" if names else "no socket was passed at all"


def take_sockets(environ: MutableMapping[str, str] = os.environ) -> PassedSockets:
    """Return the sockets that were passed to this process. No child will take them for its own."""
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return PassedSockets()
    named = names.split(":")[: int(count)] if names else []
    numbers: dict[str, list[int]] = {}
    for offset, name in enumerate(named + [NAMELESS] * (int(count) - len(named))):
        os.set_inheritable(FIRST + offset, False)
        numbers.setdefault(name, []).append(FIRST + offset)
    return PassedSockets(numbers)


def _listens(number: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(number)) as sock:
            accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return sock.type == socket.SOCK_STREAM and bool(accepts)
    except OSError:
        return False


class _Message(NamedTuple):
    """What is still to be told, with duplicates of its descriptors."""

    text: str
    numbers: tuple[int, ...] = ()


class Notifier:
    """What the service manager is told. It never raises and never waits: a manager that hangs holds no VM up.

    What it does not take at once waits in a queue. Of two messages of one kind that wait only the last counts.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Take the variables, so that no child speaks in our name."""
        path = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._status = ""
        self._every = _watchdog(environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", ""))
        self._waiting: deque[_Message] = deque()
        self._rate = LogRate(lines=1, interval=MINUTE)

    @property
    def is_heard(self) -> bool:
        """Say whether there is a service manager."""
        return bool(self._address)

    def ready(self) -> None:
        """The clients' sockets are open; also at the end of a reload."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time is for Type=notify-reload (systemd 253), others ignore it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end begins."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for people, which `systemctl status` shows; sent when it has changed."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def store(self, name: str, numbers: Sequence[int]) -> None:
        """Leave descriptors with the service manager: the next process is passed them under that name.

        It closes them where FileDescriptorStoreMax= does not allow it, and when the service is stopped for good.
        """
        self._tell(f"FDSTORE=1\nFDNAME={name}", numbers)

    def forget(self, name: str) -> None:
        """Have descriptors that were left under a name closed."""
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    async def barrier(self) -> None:
        """Wait until everything that was told has been heard (sd_notify_barrier(3)), at most `BARRIER_TIMEOUT`."""
        ours, theirs = os.pipe()
        try:
            self._tell("BARRIER=1", [theirs])
        finally:
            os.close(theirs)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(BARRIER_TIMEOUT):
                    await _ended(ours)
        finally:
            os.close(ours)

    async def watchdog(self) -> None:
        """Say again and again that the event loop turns, twice in the time that the unit allows, until cancelled."""
        while self._every:
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._every)

    def _tell(self, text: str, numbers: Sequence[int] = ()) -> None:
        if not self._address:
            return
        try:
            message = _Message(text, tuple(os.dup(number) for number in numbers))
        except OSError as error:
            self._give_up(_Message(text), error)
            return
        if self._waiting or not self._send(message):
            self._wait(message)

    def _send(self, message: _Message) -> bool:
        """Send a message, and return False where the service manager takes none now."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.connect(self._address)
                socket.send_fds(sock, [message.text.encode()], message.numbers)
        except BlockingIOError:
            return False
        except (OSError, ValueError) as error:
            self._give_up(message, error)
            return True
        _close(message)
        return True

    def _wait(self, message: _Message) -> None:
        """Put a message into the queue, in the place of one of its kind."""
        if not message.numbers:
            kind = message.text.partition("=")[0]
            self._waiting = deque(one for one in self._waiting if one.numbers or not one.text.startswith(f"{kind}="))
        if len(self._waiting) >= MAX_WAITING:
            self._give_up(self._waiting.popleft(), OSError(errno.EAGAIN, "the service manager does not read"))
        self._waiting.append(message)
        if len(self._waiting) == 1:
            self._later()

    def _later(self) -> None:
        try:
            asyncio.get_running_loop().call_later(AGAIN, self._go_on)
        except RuntimeError:  # no loop: nobody will try again
            while self._waiting:
                self._give_up(self._waiting.popleft(), OSError(errno.EAGAIN, "the service manager does not read"))

    def _go_on(self) -> None:
        """Called some time after the service manager did not take a message."""
        while self._waiting and self._send(self._waiting[0]):
            self._waiting.popleft()
        if self._waiting:
            self._later()

    def _give_up(self, message: _Message, error: Exception) -> None:
        _close(message)
        if (more := self._rate.admit(None, time.monotonic())) is not None:
            reason = getattr(error, "strerror", None) or error
            log.warning("cannot tell the service manager %r: %s%s", message.text, reason, more)


def _close(message: _Message) -> None:
    for number in message.numbers:
        os.close(number)


async def _ended(pipe: int) -> None:
    """Wait until nobody holds the writing end of a pipe any more."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pipe)


def _watchdog(usec: str, pid: str) -> float:
    """Return the seconds between signs of life, half of what is allowed (sd_watchdog_enabled(3)); 0: none wanted."""
    if pid not in ("", str(os.getpid())) or not usec.isdecimal():
        return 0.0
    return int(usec) / 2_000_000
