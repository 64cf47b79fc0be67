"""The guard as a process: builds everything from a config, owns the top task group and the signals."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from qmpguard.proxy.hub import Hub, Limits
from qmpguard.proxy.listener import Listener
from qmpguard.proxy.schemas import Schemas
from qmpguard.record import LinkChange, Run
from qmpguard.systemd import Notifier, Sockets
from qmpguard.version import __version__

if TYPE_CHECKING:
    from qmpguard.config import Config, VmConfig
    from qmpguard.record import Entry

log = logging.getLogger(__name__)

#: seconds that replies may still take after a signal to stop
DRAIN = 5.0
#: VMs that the status line names
NAMED = 5


class Guard:
    """One guarded VM: a hub with the socket that its clients come in by."""

    def __init__(
        self,
        config: VmConfig,
        schemas: Schemas | None = None,
        sockets: Sockets | None = None,
        run: Run | None = None,
    ) -> None:
        self.config = config
        self.listening = asyncio.Event()
        self._sockets = sockets or Sockets()
        limits = Limits(survey_timeout=config.survey_timeout, watch=config.watch)
        self.hub = Hub(config.name, config.qemu, config.policy, limits, schemas, run)
        self.listener: Listener | None = None

    async def run(self) -> None:
        """Guard until cancelled. Raises `UnavailableError` or `ConfigError` when there is no socket for the clients."""
        address = self._sockets.resolve(self.config.listen)
        self.listener = Listener(address, self.hub.attach, mode=self.config.socket_mode)
        self.listening.set()
        try:
            await self.hub.run()
        finally:
            self.listener.close()

    async def drain(self) -> None:
        """Take no more clients or requests, and wait a little for the replies that are under way."""
        if self.listener is not None:
            self.listener.close()
        self.hub.quiesce()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                await self.hub.drained.wait()


async def serve(config: Config, sockets: Sockets | None = None) -> None:
    """Guard every VM of a config until SIGTERM or SIGINT. Says in one line on stderr when all are ready.

    ``sockets``: those that a service manager passed.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sockets, notifier, schemas, run = sockets or Sockets(), Notifier(), Schemas(), Run()
    guards = [Guard(vm, schemas, sockets, run) for vm in config.vms]
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(guard.run()) for guard in guards]
            running.append(tasks.create_task(notifier.watchdog()))
            running.append(tasks.create_task(_tell(notifier, guards, sockets)))
            running.append(tasks.create_task(_announce(guards)))
            await stop.wait()
            log.info("stopping")
            notifier.stopping()
            async with asyncio.TaskGroup() as draining:
                for guard in guards:
                    draining.create_task(guard.drain())
            for task in running:
                task.cancel()
    except ExceptionGroup as group:
        raise _first(group) from None


async def _tell(notifier: Notifier, guards: list[Guard], sockets: Sockets) -> None:
    """Tell the service manager that clients can connect, be QEMU there or not, and from then on how the links are."""
    for guard in guards:
        await guard.listening.wait()
    if sockets.unused:
        log.warning("sockets that systemd passes and nothing listens at: %s", ", ".join(sockets.unused))
    loop = asyncio.get_running_loop()

    def changed(entry: Entry) -> None:
        if isinstance(entry.what, LinkChange):
            loop.call_soon(lambda: notifier.status(_standing(guards)))  # when the change is complete

    for guard in guards:
        guard.hub.journal.listen(changed)
    notifier.status(_standing(guards))
    notifier.ready()


def _standing(guards: list[Guard]) -> str:
    """Return one line for people on the links to QEMU."""
    down = [guard.config.name for guard in guards if guard.hub.link is None]
    if not down:
        return f"guarding {len(guards)} VM{'s' * (len(guards) != 1)}"
    more = f" and {len(down) - NAMED} more" if len(down) > NAMED else ""
    return f"guarding {len(guards) - len(down)} of {len(guards)}; waiting for QEMU: {', '.join(down[:NAMED])}{more}"


async def _announce(guards: list[Guard]) -> None:
    for guard in guards:
        await guard.hub.connected.wait()
    for guard in guards:
        greeting = guard.hub.greeting
        version = greeting.version if greeting else "gone again"
        print(
            f"qmpguard {__version__} ready: clients at {guard.config.listen}, QEMU {version} at {guard.config.qemu}",
            file=sys.stderr,
            flush=True,
        )


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error itself: one VM's fault is told in its own words."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
