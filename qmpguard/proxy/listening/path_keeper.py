"""What a listener asks of the owner of its path, where the path belonged to another socket before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from qmpguard.address import UnixAddress
    from qmpguard.proxy.listening.listener import Listener


class PathKeeper(Protocol):
    """The owner of a socket's path, where the path belonged to another socket before."""

    @property
    def qemu(self) -> UnixAddress:
        """The address of the other socket now."""
        ...

    @property
    def unprotected(self) -> str:
        """The reason why the other socket is not in a directory of the guard's own; empty: it is."""
        ...

    def give_back(self) -> None:
        """Give the path back."""
        ...

    async def keep(self, listener: Listener, connected: asyncio.Event) -> None:
        """Keep the path for the listener, until cancelled; ``connected`` is set while there is a link to QEMU."""
        ...
