"""The guard as a process: builds everything from a config, owns the top task group and the signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from qmpguard.daemon.child import forwarding
from qmpguard.daemon.console import Console, places
from qmpguard.daemon.fleet import Fleet
from qmpguard.daemon.interface import Interface
from qmpguard.daemon.lasting import keep_files, lasting
from qmpguard.daemon.reload import Reloads
from qmpguard.daemon.store import bequeath, inherit
from qmpguard.daemon.systemd import Notifier, PassedSockets
from qmpguard.logs.logbook import Logbook
from qmpguard.logs.stderr import stderr_log
from qmpguard.proxy.judging.schemas import Schemas
from qmpguard.proxy.state.counters import Upkeep
from qmpguard.record import LinkChange, Run
from qmpguard.signals import EXIT_LIMIT, HUNG, STOP_LIMIT, Ending
from qmpguard.tasks import Tasks
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence
    from typing import Any

    from qmpguard.config import AdminConfig, Config
    from qmpguard.daemon.child import Child
    from qmpguard.daemon.guard import Guard
    from qmpguard.proxy.listening.listener import Listener
    from qmpguard.record import Entry
    from qmpguard.signals import Signals

log = logging.getLogger(__name__)
#: what is said at any log level
ready = logging.getLogger(f"{__name__}.ready")
ready.setLevel(logging.INFO)

#: VMs that the status line names
NAMED = 5


async def serve(
    config: Config,
    signals: Signals,
    sockets: PassedSockets | None = None,
    load: Callable[[], Config] | None = None,
    child: Child | None = None,
) -> None:
    """Guard every VM of a config until SIGTERM or SIGINT. Says in one line on stderr when all are ready.

    ``sockets``: those that a service manager passed. ``load`` reads the config again, at SIGHUP. ``child``: a QEMU to
    be started, whose end is the end; signals are for it. When this returns, the process must end: it is ended in
    `EXIT_LIMIT` seconds.
    """
    gc.freeze()  # what was imported stays: the collector need not look at it again and again
    sockets, notifier = sockets or PassedSockets(), Notifier()
    stop, look = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    ending = Ending(_soon(loop, stop.set), _flush)
    try:
        async with AsyncExitStack() as last, Tasks() as tasks, Tasks() as vms:
            run = Run()
            fleet = Fleet(vms, Schemas(), sockets, run)
            logbook = Logbook(config.log, fleet)
            last.callback(logbook.close)
            last.callback(fleet.cancel)  # whatever ends this: no socket is left behind
            if child is not None:
                last.push_async_callback(child.ended)
            reloads = Reloads(load or (lambda: config), fleet, logbook, lambda now: _compare(config, now))
            signals.obey(_obeyed(ending, (reloads.ask, look.set), logbook, child))
            interface = _interface(config.admin, fleet, sockets, run, reloads, logbook)
            fleet.fit(config.vms)
            inherit(sockets, notifier, fleet.guards)
            console = Console(fleet, *places())
            listeners = partial(_listeners, fleet, console)
            own = [
                tasks.start("watchdog", lasting(tasks, "watchdog", notifier.watchdog)),
                tasks.start("console", lasting(tasks, "console", console.run)),
                tasks.start("reload", lasting(tasks, "reload", partial(_reload, reloads, notifier, fleet))),
                tasks.start("files", lasting(tasks, "files", partial(keep_files, listeners, look))),
            ]
            if interface is not None:
                own.append(tasks.start("admin", lasting(tasks, "admin", interface.run)))
                await interface.opened()
            if config.log.otel:
                last.push_async_callback(_export(fleet))
            if child is not None:
                child.start()
                own.append(tasks.start("child", child.run(stop), lambda _: stop.set()))
            if config.end_with_qemu or child is not None:
                own.append(
                    tasks.start("end-with-qemu", lasting(tasks, "end-with-qemu", partial(_end_with_qemu, fleet, stop)))
                )
            own.append(tasks.start("announce", _announce(list(fleet.guards.values()))))
            _tell(notifier, fleet, sockets)
            await stop.wait()
            if child is not None:
                await child.ended()  # its monitor may be gone long before
            log.info("stopping")
            ending.limit(STOP_LIMIT, HUNG)
            notifier.stopping()
            await fleet.drain()
            await bequeath(notifier, fleet.guards)
            for task in own:
                task.cancel()
            fleet.cancel()
    except ExceptionGroup as group:
        raise _first(group) from None
    finally:
        signals.obey({})
        ending.limit(EXIT_LIMIT, child.status if child is not None and child.status is not None else HUNG)


def _obeyed(
    ending: Ending, hangup: Sequence[Callable[[], None]], logbook: Logbook, child: Child | None
) -> dict[int, Callable[[], None]]:
    """Return what is done at each signal, by the thread that takes it: all but an end is done by the event loop."""
    loop = asyncio.get_running_loop()
    calls: dict[int, Callable[[], None]] = {
        signal.SIGHUP: _soon(loop, *hangup),
        signal.SIGUSR1: _soon(loop, logbook.reopen),
        signal.SIGTERM: ending.ask,
        signal.SIGINT: ending.ask,
    }
    return {**calls, **(forwarding(child) if child else {})}


def _soon(loop: asyncio.AbstractEventLoop, *calls: Callable[[], None]) -> Callable[[], None]:
    """Return a function for any thread that has the loop call others; nothing happens when the loop has ended."""

    def ask() -> None:
        with suppress(RuntimeError):
            for call in calls:
                loop.call_soon_threadsafe(call)

    return ask


def _interface(
    config: AdminConfig | None, fleet: Fleet, sockets: PassedSockets, run: Run, reloads: Reloads, logbook: Logbook
) -> Interface | None:
    """Return the admin interface where one is wanted; raises `ConfigError`."""
    if config is None:
        return None
    return Interface(config, fleet, sockets, run, lambda: Upkeep(reloads.done, reloads.failed, logbook.lost))


def _flush() -> None:
    """Write what of the log can still be written. Any thread."""
    if (handler := stderr_log()) is not None:
        handler.end()


async def _reload(reloads: Reloads, notifier: Notifier, fleet: Fleet) -> None:
    await reloads.run(notifier.reloading, lambda: _ready(notifier, fleet))


def _listeners(fleet: Fleet, console: Console) -> Iterator[Listener | None]:
    """Yield the sockets whose files are looked after."""
    yield console.listener
    for guard in fleet.guards.values():
        yield guard.listener


def _compare(before: Config, now: Config) -> None:
    """Say what of a new config waits for the next start."""
    if now.admin != before.admin or now.log.otel != before.log.otel:
        log.warning("the admin interface and OpenTelemetry keep the settings that the guard was started with")


async def _end_with_qemu(fleet: Fleet, stop: asyncio.Event) -> None:
    """Set ``stop`` when the QEMUs of all VMs have ended, after they had been there."""
    await fleet.ended.wait()
    log.info("every QEMU has ended")
    stop.set()


def _export(fleet: Fleet) -> Callable[[], Coroutine[Any, Any, None]]:
    """Export decisions to OpenTelemetry from now on, and return what ends it. Raises `ConfigError`."""
    from qmpguard.logs.otel import Telemetry

    telemetry = Telemetry()
    fleet.listen(telemetry.told)
    return telemetry.close


def _tell(notifier: Notifier, fleet: Fleet, sockets: PassedSockets) -> None:
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
    down = [name for name, guard in fleet.guards.items() if guard.vm.link is None]
    if not down:
        return f"guarding {count} VM{'s' * (count != 1)}"
    more = f" and {len(down) - NAMED} more" if len(down) > NAMED else ""
    return f"guarding {count - len(down)} of {count}; waiting for QEMU: {', '.join(down[:NAMED])}{more}"


async def _announce(guards: list[Guard]) -> None:
    for guard in guards:
        await guard.vm.connected.wait()
    for guard in guards:
        greeting = guard.vm.greeting
        version = greeting.version if greeting else "gone again"
        listen, fields = guard.config.listen, {"vm": guard.config.name, "qemu": version}
        ready.info(
            "qmpguard %s ready: clients at %s, QEMU %s at %s",
            *(__version__, listen, version, guard.config.qemu),
            extra={"bare": True, "fields": {**fields, "listen": str(listen)}},
        )


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first error itself: one VM's fault is told in its own words."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
