"""The two interfaces to systemd: socket activation (sd_listen_fds(3)) and notifications (sd_notify(3)).

The first is environment variables and descriptors from 3 on, the second datagrams. Without a service manager both do
nothing.
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
#: the name of a socket without FileDescriptorName= (sd_listen_fds_with_names(3))
UNNAMED = "unknown"
#: seconds that the end of a process waits for the service manager to read its notifications
BARRIER_TIMEOUT = 1.0
#: queued notifications while the service manager does not read; each stored link is one
MAX_WAITING = 1024
#: seconds before a notification is sent again
RETRY_DELAY = 0.1
#: seconds in which a failure to notify is logged once
LOG_INTERVAL = 60.0


class PassedSockets:
    """The listening sockets that the service manager passed, by name. They stay open as long as the process runs."""

    def __init__(self, numbers: Mapping[str, list[int]] | None = None) -> None:
        self._numbers = dict(numbers or {})
        self._unused = set(self._numbers)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def resolve(self, address: ListenAddress) -> Address:
        """Return the address to listen at: for a name, a duplicate of its socket, which the caller owns.

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
        """Return the descriptors whose names begin with ``prefix``; the caller owns them."""
        names = [name for name in self._numbers if name.startswith(prefix)]
        self._unused.difference_update(names)
        return {name: self._numbers.pop(name) for name in names}

    @property
    def unused(self) -> list[str]:
        """The names that `resolve` was not called with."""
        return sorted(self._unused)

    def _passed(self) -> str:
        names = ", ".join(sorted(self._numbers))
        return f"names (FileDescriptorName= in the socket unit): {names}" if names else "no socket was passed at all"


def take_sockets(environ: MutableMapping[str, str] = os.environ) -> PassedSockets:
    """Return the sockets that were passed to this process, and remove the variables from the environment."""
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return PassedSockets()
    named = names.split(":")[: int(count)] if names else []
    numbers: dict[str, list[int]] = {}
    for offset, name in enumerate(named + [UNNAMED] * (int(count) - len(named))):
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
    """A notification, with duplicates of its descriptors."""

    text: str
    numbers: tuple[int, ...] = ()


class Notifier:
    """Notifies the service manager. Its methods never raise and, except `barrier`, never wait.

    A notification that cannot be sent at once is queued. Of two queued ones of a kind only the last is sent.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Remove the variables from the environment, so that no child process notifies."""
        path = environ.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._status = ""
        self._every = _watchdog(environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", ""))
        self._waiting: deque[_Message] = deque()
        self._rate = LogRate(lines=1, interval=LOG_INTERVAL)

    @property
    def is_available(self) -> bool:
        """Say whether a service manager started this process with NotifyAccess=."""
        return bool(self._address)

    def ready(self) -> None:
        """Send READY=1: the clients' sockets are open, or a reload is complete."""
        self._notify("READY=1")

    def reloading(self) -> None:
        """Send RELOADING=1; `ready` follows. The time is for Type=notify-reload (systemd 253); others ignore it."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Send STOPPING=1."""
        self._notify("STOPPING=1")

    def status(self, text: str) -> None:
        """Send the line that `systemctl status` shows, if it has changed."""
        if text != self._status:
            self._status = text
            self._notify(f"STATUS={text}")

    def store(self, name: str, numbers: Sequence[int]) -> None:
        """Store descriptors with the service manager, which passes them to the next process under this name.

        systemd closes them where FileDescriptorStoreMax= does not allow it, and when the service is stopped.
        """
        self._notify(f"FDSTORE=1\nFDNAME={name}", numbers)

    def forget(self, name: str) -> None:
        """Remove the descriptors of a name from the store."""
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={name}")

    async def barrier(self) -> None:
        """Wait until every notification has been read (sd_notify_barrier(3)), at most `BARRIER_TIMEOUT`."""
        ours, theirs = os.pipe()
        try:
            self._notify("BARRIER=1", [theirs])
        finally:
            os.close(theirs)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(BARRIER_TIMEOUT):
                    await _wait_until_closed(ours)
        finally:
            os.close(ours)

    async def watchdog(self) -> None:
        """Send WATCHDOG=1 twice in each WatchdogSec=, until cancelled."""
        while self._every:
            self._notify("WATCHDOG=1")
            await asyncio.sleep(self._every)

    def _notify(self, text: str, numbers: Sequence[int] = ()) -> None:
        if not self._address:
            return
        try:
            message = _Message(text, tuple(os.dup(number) for number in numbers))
        except OSError as error:
            self._drop(_Message(text), error)
            return
        if self._waiting or not self._send(message):
            self._enqueue(message)

    def _send(self, message: _Message) -> bool:
        """Send a notification; return False where the socket's queue is full."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.connect(self._address)
                socket.send_fds(sock, [message.text.encode()], message.numbers)
        except BlockingIOError:
            return False
        except (OSError, ValueError) as error:
            self._drop(message, error)
            return True
        _close(message)
        return True

    def _enqueue(self, message: _Message) -> None:
        """Queue a notification, in place of one of its kind."""
        if not message.numbers:
            kind = message.text.partition("=")[0]
            self._waiting = deque(one for one in self._waiting if one.numbers or not one.text.startswith(f"{kind}="))
        if len(self._waiting) >= MAX_WAITING:
            self._drop(self._waiting.popleft(), OSError(errno.EAGAIN, "the service manager does not read"))
        self._waiting.append(message)
        if len(self._waiting) == 1:
            self._schedule_retry()

    def _schedule_retry(self) -> None:
        try:
            asyncio.get_running_loop().call_later(RETRY_DELAY, self._retry)
        except RuntimeError:  # no event loop runs, so nothing would send it later
            while self._waiting:
                self._drop(self._waiting.popleft(), OSError(errno.EAGAIN, "the service manager does not read"))

    def _retry(self) -> None:
        """Called `RETRY_DELAY` seconds after a notification could not be sent."""
        while self._waiting and self._send(self._waiting[0]):
            self._waiting.popleft()
        if self._waiting:
            self._schedule_retry()

    def _drop(self, message: _Message, error: Exception) -> None:
        _close(message)
        if (more := self._rate.admit(None, time.monotonic())) is not None:
            reason = getattr(error, "strerror", None) or error
            log.warning("cannot notify the service manager of %r: %s%s", message.text, reason, more)


def _close(message: _Message) -> None:
    for number in message.numbers:
        os.close(number)


async def _wait_until_closed(pipe: int) -> None:
    """Return when every writing end of a pipe is closed."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pipe)


def _watchdog(usec: str, pid: str) -> float:
    """Return the seconds between two WATCHDOG=1: half of WatchdogSec= (sd_watchdog_enabled(3)). 0: no watchdog."""
    if pid not in ("", str(os.getpid())) or not usec.isdecimal():
        return 0.0
    return int(usec) / 2_000_000
