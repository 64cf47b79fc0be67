"""The admin interface as a task that can restart.

An error before its socket is open ends the process's start. A later one ends the task only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.admin.server import Admin
    from qmpguard.config import AdminConfig
    from qmpguard.daemon.supervisor import Supervisor
    from qmpguard.daemon.systemd import PassedSockets
    from qmpguard.proxy.state.counters import Upkeep
    from qmpguard.record import Run


class Interface:
    """Creates and runs an `Admin`, a new one at each start."""

    def __init__(
        self,
        config: AdminConfig,
        supervisor: Supervisor,
        sockets: PassedSockets,
        run: Run,
        upkeep: Callable[[], Upkeep],
    ) -> None:
        """Create the first; raises `ConfigError`."""
        self._make: Callable[[], Admin] = partial(_admin, config, supervisor, sockets, run, upkeep)
        self._first = self._make()
        self._begun = False
        self._error: Exception | None = None

    async def opened(self) -> None:
        """Return when the first socket is open. Raises the error that prevented it."""
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


def _admin(
    config: AdminConfig, supervisor: Supervisor, sockets: PassedSockets, run: Run, upkeep: Callable[[], Upkeep]
) -> Admin:
    from qmpguard.admin.server import Admin

    address = sockets.resolve(config.listen)
    return Admin(address, lambda: supervisor.vms, run, upkeep, token_file=config.token_file, hosts=config.hosts)
