"""The admin interface of a process: an error before its socket is open ends the start, one later only itself."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.admin.server import Admin
    from qmpguard.config import AdminConfig
    from qmpguard.daemon.fleet import Fleet
    from qmpguard.daemon.systemd import Sockets
    from qmpguard.proxy.counts import Upkeep
    from qmpguard.record import Run


class Interface:
    """Makes an `Admin` and runs it, another one each time. ``opened`` raises why the first could not be opened."""

    def __init__(
        self, config: AdminConfig, fleet: Fleet, sockets: Sockets, run: Run, upkeep: Callable[[], Upkeep]
    ) -> None:
        """Make the first; raises `ConfigError`."""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._make: Callable[[], Admin] = partial(_admin, config, fleet, sockets, run, upkeep)
        self._first: Admin | None = self._make()

    async def run(self) -> None:
        """Serve until cancelled. An error before the first was open is raised to who awaits ``opened`` only."""
        admin, self._first = self._first or self._make(), None
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(self._open(admin))
            try:
                await admin.run()
            except Exception as error:
                if self.opened.done():
                    raise
                self.opened.set_exception(error)
            finally:
                opening.cancel()

    async def _open(self, admin: Admin) -> None:
        await admin.opened.wait()
        if not self.opened.done():
            self.opened.set_result(None)


def _admin(config: AdminConfig, fleet: Fleet, sockets: Sockets, run: Run, upkeep: Callable[[], Upkeep]) -> Admin:
    from qmpguard.admin.server import Admin

    address = sockets.resolve(config.listen)
    return Admin(address, lambda: fleet.hubs, run, upkeep, token_file=config.token_file, hosts=config.hosts)
