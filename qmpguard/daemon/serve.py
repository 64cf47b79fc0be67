"""The guard's process: builds its parts from a config, and owns the top task group and the signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from qmpguard.daemon.console import Console, socket_paths
from qmpguard.daemon.interface import Interface
from qmpguard.daemon.reload import Reloads
from qmpguard.daemon.restarts import restore_socket_files, run_with_restarts
from qmpguard.daemon.store import restore_links, store_links
from qmpguard.daemon.supervisor import Supervisor
from qmpguard.daemon.systemd import Notifier, PassedSockets
from qmpguard.logs.log_files import LogFiles
from qmpguard.logs.stderr import stderr_log
from qmpguard.proxy.judging.schemas import Schemas
from qmpguard.proxy.state.counters import Upkeep
from qmpguard.record import LinkChange, Run
from qmpguard.signals import EXIT_HUNG, EXIT_TIMEOUT, STOP_TIMEOUT, Shutdown
from qmpguard.tasks import Tasks
from qmpguard.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
    from typing import Any

    from qmpguard.config import AdminConfig, Config
    from qmpguard.daemon.guard import GuardedVm
    from qmpguard.proxy.listening.listener import Listener
    from qmpguard.record import Entry
    from qmpguard.signals import Signals

log = logging.getLogger(__name__)
#: logs at any log level
ready = logging.getLogger(f"{__name__}.ready")
ready.setLevel(logging.INFO)

#: VMs that the status line names
MAX_NAMED = 5


class StartedQemu(Protocol):
    """A QEMU that starts when the guard is ready."""

    @property
    def status(self) -> int | None:
        """QEMU's exit status, where it is known."""
        ...

    def start(self) -> None:
        """Start QEMU. Raises `UsageError` where it cannot be started."""
        ...

    async def run(self, stop: asyncio.Event) -> None:
        """Set ``stop`` when QEMU has ended."""
        ...

    async def ended(self) -> None:
        """Return when a QEMU that must not outlive the guard has ended."""
        ...

    def signal_handlers(self) -> Mapping[int, Callable[[], None]]:
        """Return a handler for each signal that is forwarded to QEMU."""
        ...


async def serve(
    config: Config,
    signals: Signals,
    sockets: PassedSockets | None = None,
    load: Callable[[], Config] | None = None,
    child: StartedQemu | None = None,
) -> None:
    """Guard every VM of a config until SIGTERM or SIGINT. Prints one line on stderr when all VMs are ready.

    ``sockets``: the sockets that a service manager passed. ``load`` reads the config again, at SIGHUP. ``child``: a
    QEMU to start; the guard forwards signals to it and stops when it ends. After the return the process must exit: it
    is killed after `EXIT_TIMEOUT` seconds.
    """
    gc.freeze()  # imported modules stay for ever: keep the garbage collector from scanning them
    sockets, notifier = sockets or PassedSockets(), Notifier()
    stop, look = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    shutdown = Shutdown(_in_loop(loop, stop.set), _flush)
    try:
        async with AsyncExitStack() as last, Tasks() as tasks, Tasks() as vms:
            run = Run()
            supervisor = Supervisor(vms, Schemas(), sockets, run)
            log_files = LogFiles(config.log, supervisor)
            last.callback(log_files.close)
            last.callback(supervisor.cancel)  # on every exit path, so that no socket file is left behind
            if child is not None:
                last.push_async_callback(child.ended)
            reloads = Reloads(
                load or (lambda: config), supervisor, log_files, lambda now: _warn_of_ignored(config, now)
            )
            signals.set_handlers(_signal_handlers(shutdown, (reloads.ask, look.set), log_files, child))
            interface = _interface(config.admin, supervisor, sockets, run, reloads, log_files)
            supervisor.apply(config.vms)
            restore_links(sockets, notifier, supervisor.guards)
            console = Console(supervisor, *socket_paths())
            listeners = partial(_listeners, supervisor, console)
            own = [
                tasks.start("watchdog", run_with_restarts(tasks, "watchdog", notifier.watchdog)),
                tasks.start("console", run_with_restarts(tasks, "console", console.run)),
                tasks.start(
                    "reload", run_with_restarts(tasks, "reload", partial(_reload, reloads, notifier, supervisor))
                ),
                tasks.start("files", run_with_restarts(tasks, "files", partial(restore_socket_files, listeners, look))),
            ]
            if interface is not None:
                own.append(tasks.start("admin", run_with_restarts(tasks, "admin", interface.run)))
                await interface.opened()
            if config.log.otel:
                last.push_async_callback(_export(supervisor))
            if child is not None:
                child.start()
                own.append(tasks.start("child", child.run(stop), lambda _: stop.set()))
            if config.end_with_qemu or child is not None:
                own.append(
                    tasks.start(
                        "end-with-qemu",
                        run_with_restarts(tasks, "end-with-qemu", partial(_end_with_qemu, supervisor, stop)),
                    )
                )
            own.append(tasks.start("announce", _announce(list(supervisor.guards.values()))))
            _notify_ready(notifier, supervisor, sockets)
            await stop.wait()
            if child is not None:
                await child.ended()  # QEMU may close its monitor long before it exits
            log.info("stopping")
            shutdown.exit_after(STOP_TIMEOUT, EXIT_HUNG)
            notifier.stopping()
            await supervisor.drain()
            await store_links(notifier, supervisor.guards)
            for task in own:
                task.cancel()
            supervisor.cancel()
    except ExceptionGroup as group:
        raise _first_error(group) from None
    finally:
        signals.set_handlers({})
        shutdown.exit_after(EXIT_TIMEOUT, child.status if child is not None and child.status is not None else EXIT_HUNG)


def _signal_handlers(
    shutdown: Shutdown, hangup: Sequence[Callable[[], None]], log_files: LogFiles, child: StartedQemu | None
) -> dict[int, Callable[[], None]]:
    """Return a handler for each signal.

    The signal thread calls them; all but a stop pass the work to the event loop.
    """
    loop = asyncio.get_running_loop()
    calls: dict[int, Callable[[], None]] = {
        signal.SIGHUP: _in_loop(loop, *hangup),
        signal.SIGUSR1: _in_loop(loop, log_files.reopen),
        signal.SIGTERM: shutdown.request,
        signal.SIGINT: shutdown.request,
    }
    return {**calls, **(child.signal_handlers() if child else {})}


def _in_loop(loop: asyncio.AbstractEventLoop, *calls: Callable[[], None]) -> Callable[[], None]:
    """Return a thread-safe function that schedules ``calls`` in the loop; it does nothing when the loop is closed."""

    def ask() -> None:
        with suppress(RuntimeError):
            for call in calls:
                loop.call_soon_threadsafe(call)

    return ask


def _interface(
    config: AdminConfig | None,
    supervisor: Supervisor,
    sockets: PassedSockets,
    run: Run,
    reloads: Reloads,
    log_files: LogFiles,
) -> Interface | None:
    """Return the admin interface; None where none is configured. Raises `ConfigError`."""
    if config is None:
        return None
    return Interface(config, supervisor, sockets, run, lambda: Upkeep(reloads.done, reloads.failed, log_files.lost))


def _flush() -> None:
    """Flush the log as far as possible. Any thread may call this."""
    if (handler := stderr_log()) is not None:
        handler.end()


async def _reload(reloads: Reloads, notifier: Notifier, supervisor: Supervisor) -> None:
    await reloads.run(notifier.reloading, lambda: _ready(notifier, supervisor))


def _listeners(supervisor: Supervisor, console: Console) -> Iterator[Listener | None]:
    """Yield the listeners whose socket files are checked."""
    yield console.listener
    for guard in supervisor.guards.values():
        yield guard.listener


def _warn_of_ignored(before: Config, now: Config) -> None:
    """Log the changes of a config that need a restart."""
    if now.admin != before.admin or now.log.otel != before.log.otel:
        log.warning("the admin interface and OpenTelemetry keep the settings that the guard was started with")


async def _end_with_qemu(supervisor: Supervisor, stop: asyncio.Event) -> None:
    """Set ``stop`` when every QEMU was connected and has ended."""
    await supervisor.ended.wait()
    log.info("every QEMU has ended")
    stop.set()


def _export(supervisor: Supervisor) -> Callable[[], Coroutine[Any, Any, None]]:
    """Export decisions to OpenTelemetry, and return the function that stops it. Raises `ConfigError`."""
    from qmpguard.logs.otel import Telemetry

    telemetry = Telemetry()
    supervisor.listen(telemetry.on_entry)
    return telemetry.close


def _notify_ready(notifier: Notifier, supervisor: Supervisor, sockets: PassedSockets) -> None:
    """Notify the service manager that clients can connect, with QEMU or without, and of each change of a link."""
    if sockets.unused:
        log.warning("sockets that systemd passes and nothing listens at: %s", ", ".join(sockets.unused))
    loop = asyncio.get_running_loop()

    def changed(entry: Entry) -> None:
        if isinstance(entry.what, LinkChange):
            loop.call_soon(lambda: notifier.status(_status_line(supervisor)))  # after the change is complete

    supervisor.listen(changed)
    _ready(notifier, supervisor)


def _ready(notifier: Notifier, supervisor: Supervisor) -> None:
    notifier.status(_status_line(supervisor))
    notifier.ready()


def _status_line(supervisor: Supervisor) -> str:
    """Return the text of `systemctl status`: the number of links to QEMU."""
    count = len(supervisor.guards)
    down = [name for name, guard in supervisor.guards.items() if guard.vm.link is None]
    if not down:
        return f"guarding {count} VM{'s' * (count != 1)}"
    more = f" and {len(down) - MAX_NAMED} more" if len(down) > MAX_NAMED else ""
    return f"guarding {count - len(down)} of {count}; waiting for QEMU: {', '.join(down[:MAX_NAMED])}{more}"


async def _announce(guards: list[GuardedVm]) -> None:
    for guard in guards:
        await guard.vm.connected.wait()
    for guard in guards:
        greeting = guard.vm.greeting
        version = greeting.version if greeting else "gone again"
        listen, fields = guard.config.listen, {"vm": guard.config.name, "qemu": version}
        ready.info(
            "qmpguard %s ready: clients at %s, QEMU %s at %s",
            *(__version__, listen, version, guard.vm.connections.address),
            extra={"bare": True, "fields": {**fields, "listen": str(listen)}},
        )


def _first_error(group: ExceptionGroup[Exception]) -> Exception:
    """Return the first exception of a group and its inner groups."""
    error = group.exceptions[0]
    return _first_error(error) if isinstance(error, ExceptionGroup) else error
