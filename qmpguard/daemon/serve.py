"""The guard as a process: builds everything from a config, owns the top task group and the signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from qmpguard.daemon.child import FORWARDED
from qmpguard.daemon.console import Console, place
from qmpguard.daemon.fleet import Fleet
from qmpguard.daemon.reload import Reloads
from qmpguard.daemon.store import bequeath, inherit
from qmpguard.daemon.systemd import Notifier, Sockets
from qmpguard.ledger.logbook import Logbook
from qmpguard.proxy.counts import Upkeep
from qmpguard.proxy.schemas import Schemas
from qmpguard.record import LinkChange, Run
from qmpguard.tasks import Tasks
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.admin.server import Admin
    from qmpguard.config import AdminConfig, Config
    from qmpguard.daemon.child import Child
    from qmpguard.daemon.guard import Guard
    from qmpguard.record import Entry

log = logging.getLogger(__name__)

#: VMs that the status line names
NAMED = 5


async def serve(
    config: Config,
    sockets: Sockets | None = None,
    load: Callable[[], Config] | None = None,
    child: Child | None = None,
) -> None:
    """Guard every VM of a config until SIGTERM or SIGINT. Says in one line on stderr when all are ready.

    ``sockets``: those that a service manager passed. ``load`` reads the config again, at SIGHUP. ``child``: a QEMU to
    be started, whose end is the end; signals are for it.
    """
    gc.freeze()  # what was imported stays: the collector need not look at it again and again
    sockets, notifier = sockets or Sockets(), Notifier()
    stop = asyncio.Event()
    try:
        async with AsyncExitStack() as last, asyncio.TaskGroup() as tasks, Tasks() as vms:
            run = Run()
            fleet = Fleet(vms, Schemas(), sockets, run)
            logbook = Logbook(config.log, fleet)
            last.callback(logbook.close)
            reloads = Reloads(load or (lambda: config), fleet, lambda now: _follow(config, now, logbook))
            _signals(stop, reloads, logbook, child)
            admin = (
                None
                if config.admin is None
                else _admin(
                    config.admin, fleet, sockets, run, lambda: Upkeep(reloads.done, reloads.failed, logbook.lost)
                )
            )
            fleet.fit(config.vms)
            inherit(sockets, notifier, fleet.guards)
            own = [
                tasks.create_task(notifier.watchdog()),
                tasks.create_task(Console(fleet, place()).run()),
                tasks.create_task(reloads.run(notifier.reloading, lambda: _ready(notifier, fleet))),
            ]
            if admin is not None:
                own.append(tasks.create_task(admin.run()))
                await admin.opened.wait()
            if config.log.otel:
                own.append(tasks.create_task(_export(fleet)))
            if child is not None:
                own.append(tasks.create_task(child.run(stop)))
            if config.end_with_qemu or child is not None:
                own.append(tasks.create_task(_end_with_qemu(fleet, stop)))
            own.append(tasks.create_task(_announce(list(fleet.guards.values()))))
            _tell(notifier, fleet, sockets)
            await stop.wait()
            log.info("stopping")
            notifier.stopping()
            await fleet.drain()
            await bequeath(notifier, fleet.guards)
            for task in own:
                task.cancel()
            fleet.cancel()
    except ExceptionGroup as group:
        raise _first(group) from None


def _signals(stop: asyncio.Event, reloads: Reloads, logbook: Logbook, child: Child | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reloads.ask)
    loop.add_signal_handler(signal.SIGUSR1, logbook.reopen)
    if child is not None:
        for number in FORWARDED:
            loop.add_signal_handler(number, child.forward, number)


def _follow(before: Config, now: Config, logbook: Logbook) -> None:
    """Write down as a new config says, and say what of it waits for the next start."""
    logbook.follow(now.log)
    if now.admin != before.admin or now.log.otel != before.log.otel:
        log.warning("the admin interface and OpenTelemetry keep the settings that the guard was started with")


def _admin(config: AdminConfig, fleet: Fleet, sockets: Sockets, run: Run, upkeep: Callable[[], Upkeep]) -> Admin:
    """Return the admin interface; raises `ConfigError`."""
    from qmpguard.admin.server import Admin

    address = sockets.resolve(config.listen)
    return Admin(address, lambda: fleet.hubs, run, upkeep, token_file=config.token_file, hosts=config.hosts)


async def _end_with_qemu(fleet: Fleet, stop: asyncio.Event) -> None:
    """Set ``stop`` when the QEMUs of all VMs have ended, after they had been there."""
    await fleet.ended.wait()
    log.info("every QEMU has ended")
    stop.set()


async def _export(fleet: Fleet) -> None:
    """Export decisions to OpenTelemetry until cancelled."""
    from qmpguard.ledger.otel import Telemetry

    telemetry = Telemetry()
    fleet.listen(telemetry.told)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await telemetry.close()


def _tell(notifier: Notifier, fleet: Fleet, sockets: Sockets) -> None:
    """Tell the service manager that clients can connect, be QEMU there or not, and from then on how the links are."""
    if sockets.unused:
        log.warning("sockets that systemd passes and nothing listens at: %s", ", ".join(sockets.unused))
    loop = asyncio.get_running_loop()

    def changed(entry: Entry) -> None:
        if isinstance(entry.what, LinkChange):
            loop.call_soon(lambda: notifier.status(_standing(fleet)))  # when the change is complete

    fleet.listen(changed)
    _ready(notifier, fleet)


def _ready(notifier: Notifier, fleet: Fleet) -> None:
    notifier.status(_standing(fleet))
    notifier.ready()


def _standing(fleet: Fleet) -> str:
    """Return one line for people on the links to QEMU."""
    count = len(fleet.guards)
    down = [name for name, guard in fleet.guards.items() if guard.hub.link is None]
    if not down:
        return f"guarding {count} VM{'s' * (count != 1)}"
    more = f" and {len(down) - NAMED} more" if len(down) > NAMED else ""
    return f"guarding {count - len(down)} of {count}; waiting for QEMU: {', '.join(down[:NAMED])}{more}"


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
