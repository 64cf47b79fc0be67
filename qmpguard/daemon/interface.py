"""The admin interface of a process: an error before its socket is open ends the start, one later only itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.admin.server import Admin
    from qmpguard.config import AdminConfig
    from qmpguard.daemon.fleet import Fleet
    from qmpguard.daemon.systemd import PassedSockets
    from qmpguard.proxy.state.counters import Upkeep
    from qmpguard.record import Run


class Interface:
    """Makes an `Admin` and runs it, another one each time."""

    def __init__(
        self, config: AdminConfig, fleet: Fleet, sockets: PassedSockets, run: Run, upkeep: Callable[[], Upkeep]
    ) -> None:
        """Make the first; raises `ConfigError`."""
        self._make: Callable[[], Admin] = partial(_admin, config, fleet, sockets, run, upkeep)
        self._first = self._make()
        self._begun = False
        self._error: Exception | None = None

    async def opened(self) -> None:
        """Wait until the first socket is open, or raise why it cannot be."""
        await self._first.opened.wait()
        if self._error is not None:
            raise self._error

    async def run(self) -> None:
        """Serve until cancelled. An error before the first socket was open is raised by `opened` only."""
        admin = self._make() if self._begun else self._first
        self._begun = True
        try:
            await admin.run()
        except Exception as error:
            if self._first.opened.is_set():
                raise
            self._error = error
            self._first.opened.set()


def _admin(config: AdminConfig, fleet: Fleet, sockets: PassedSockets, run: Run, upkeep: Callable[[], Upkeep]) -> Admin:
    from qmpguard.admin.server import Admin

    address = sockets.resolve(config.listen)
    return Admin(address, lambda: fleet.vms, run, upkeep, token_file=config.token_file, hosts=config.hosts)
