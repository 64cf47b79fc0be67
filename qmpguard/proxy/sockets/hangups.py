"""Hang-ups of sockets from which nothing is read for the moment: without this, who has left would keep its place.

The event loop watches for input only, and level-triggered: a socket that is not to be read is not watched at all. An
epoll of our own with an empty mask reports what is always reported, that both directions are closed (epoll_ctl(2):
EPOLLHUP, EPOLLERR); it is itself readable when there is something to report. QEMU watches its sockets likewise
(chardev/char-socket.c: tcp_chr_hup). A TCP client that has closed cannot be told from one that still reads.
"""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: hang-ups that are reported in one wake-up, before everybody else gets their turn
BATCH = 64


class Hangups:
    """Calls back when a watched socket has been closed by its other side; once, and then it is watched no more."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None

    def watch(self, number: int, callback: Callable[[], None]) -> None:
        """Watch a descriptor. Where the process has none left for that, its hang-up goes unnoticed."""
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
        """Watch a descriptor no more; to be called before it is closed."""
        if self._callbacks.pop(number, None) is not None and self._epoll is not None:
            self._epoll.unregister(number)

    def close(self) -> None:
        """Watch nothing any more."""
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
