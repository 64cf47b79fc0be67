"""Hang-ups of sockets whose reading is paused. Otherwise a client that has closed would stay counted.

The event loop's watch is level-triggered and for input only, so a paused socket is not watched. A separate epoll with
an empty event mask still reports that both directions are closed (epoll_ctl(2): EPOLLHUP, EPOLLERR). It is itself
readable when there is an event. QEMU does the same (chardev/char-socket.c: tcp_chr_hup). A TCP client that has closed
cannot be distinguished from one that still reads.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: hang-ups that are reported in one iteration of the event loop
BATCH = 64


class Hangups:
    """Calls a callback once when the peer of a watched socket has closed it."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None

    def watch(self, number: int, callback: Callable[[], None]) -> None:
        """Watch a descriptor. Does nothing where the process has no descriptor left for the epoll."""
        if number in self._callbacks:
            return
        try:
            if self._epoll is None:
                self._epoll = select.epoll()
                asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._ready)
            self._epoll.register(number, 0)
        except OSError:
            return
        self._callbacks[number] = callback

    def forget(self, number: int) -> None:
        """Stop watching a descriptor; call this before it is closed."""
        if self._callbacks.pop(number, None) is not None and self._epoll is not None:
            self._epoll.unregister(number)

    def close(self) -> None:
        """Stop watching every descriptor."""
        self._callbacks.clear()
        if self._epoll is not None:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _ready(self) -> None:
        assert self._epoll is not None
        for number, _ in self._epoll.poll(0, BATCH):
            callback = self._callbacks.get(number)
            self.forget(number)
            if callback is not None:
                callback()
