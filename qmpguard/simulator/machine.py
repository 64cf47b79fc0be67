"""The state of a simulated QEMU: what each command returns and changes, and the events that it causes.

It knows no socket and no clock: `schedule` calls it back after some seconds. A command that it does not act on is
answered as the known QEMU answered it, or with the emptiest value of its type; where there is none, with an error that
says that it is not simulated.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.policy.hmp import parser
from qmpguard.policy.hmp.syntax import parse_line
from qmpguard.policy.hmp.translation import as_qmp
from qmpguard.recording.lines import GUARD, EventSeen, Exchange
from qmpguard.simulator.arguments import CommandTypes
from qmpguard.simulator.devices import RefusedBySimulator, SimulatedDevices
from qmpguard.simulator.versions import known_qemu, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.recording.lines import Members
    from qmpguard.simulator.description import Description
    from qmpguard.wire.json import Value

#: bytes of RAM that a migration reports
_RAM = 1 << 30
#: states in which a migration runs
_RUNNING = frozenset({"setup", "active", "postcopy-active"})
#: the error of a `vfio-pci` since QEMU 8.2 (migration/options.c)
_VFIO_BLOCKED = "VFIO migration is not supported with postcopy migration"


Result: TypeAlias = "Value"


class SimulatedMachine:
    """One simulated QEMU without its monitor. ``emit`` is called with each event, ``schedule`` with seconds to wait."""

    def __init__(
        self,
        description: Description,
        emit: Callable[[str, Members], None],
        schedule: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self.known = known_qemu(description.version or versions()[-1])
        schema = self.known.returned("query-qmp-schema")
        self.types = CommandTypes(schema if isinstance(schema, list) else [])
        self.capabilities = self._all_off() | dict.fromkeys(description.capabilities, True)
        self.devices = SimulatedDevices(description.devices)
        self.runstate = description.runstate
        self.migration: Members = {}
        self.has_quit = False
        self._description = description
        self._emit = emit
        self._schedule = schedule
        self._parameters = self._known_parameters()
        self._script = _replies(description.script)
        self._run = 0  # the number of the present migration

    @property
    def version(self) -> str:
        """QEMU's version, as in "11.1.0"."""
        return self.known.qemu

    @property
    def package(self) -> str:
        """The package in the greeting."""
        return self.known.package

    def execute(self, command: str, arguments: Members, *, oob: bool = False) -> Result:
        """Return what a command returns. Raises `RefusedBySimulator`."""
        if not self.types.knows(command):
            raise RefusedBySimulator(f"The command {command} has not been found", "CommandNotFound")
        if oob and not self.types.allows_oob(command):
            raise RefusedBySimulator(f"The command {command} does not support OOB")
        if error := self.types.error(command, arguments):
            raise RefusedBySimulator(error)
        if (recorded := self._recorded(command, arguments)) is not None:
            return recorded
        return self._act(command, arguments)

    def _recorded(self, command: str, arguments: Members) -> Result | None:
        """Return the next recorded reply to a command, and emit the events that came after it. None: there is none."""
        queue = self._script.get(_key(command, arguments))
        if not queue:
            return None
        line, events = queue[0] if len(queue) == 1 else queue.popleft()
        for event in events:
            self._emit(event.name, event.data)
        if line.returned:
            return line.reply["return"]
        error = line.reply.get("error")
        assert isinstance(error, dict)
        raise RefusedBySimulator(str(error.get("desc")), str(error.get("class")))

    def _act(self, command: str, arguments: Members) -> Result:
        match command, arguments:
            case "query-status", _:
                return {"status": self.runstate, "running": self.runstate == "running"}
            case "stop" | "cont", _:
                return self._set_running(command == "cont")
            case "query-migrate-capabilities", _:
                return [{"state": state, "capability": name} for name, state in self.capabilities.items()]
            case "migrate-set-capabilities", {"capabilities": list(entries)}:
                return self._switch(entries)
            case "query-migrate-parameters", _:
                return self._parameters
            case "migrate-set-parameters", _:
                self._parameters = {**self._parameters, **arguments}
                return {}
            case "query-migrate", _:
                return self.migration
            case "migrate", _:
                return self._migrate(arguments)
            case "migrate_cancel", _:
                return self._cancel()
            case "migrate-start-postcopy", _:
                return self._start_postcopy()
            case "quit", _:
                return self._quit()
            case _:
                return self._act_on_devices(command, arguments)

    def _act_on_devices(self, command: str, arguments: Members) -> Result:
        match command, arguments:
            case "device_add", _:
                self.devices.add(arguments)
                return {}
            case "device_del", {"id": str(identity)}:
                gone = self.devices.remove(identity)
                self._schedule(0.0, lambda: self._emit("DEVICE_DELETED", gone))
                return {}
            case "qom-list", {"path": str(path)}:
                return self.devices.list(path)
            case "qom-get", {"path": str(path), "property": str(name)}:
                return self.devices.property(path, name)
            case "human-monitor-command", {"command-line": str(line)}:
                return self._hmp(line)
            case _:
                return self._emptiest(command)

    def _emptiest(self, command: str) -> Result:
        reply = self.known.replies.get(command) or {}
        value = reply.get("return", self.types.default(command))
        if value is None:
            raise RefusedBySimulator(f"qmpguard simulate has no answer to {command}")
        return value

    def _all_off(self) -> dict[str, bool]:
        listed = self.known.returned("query-migrate-capabilities")
        entries = listed if isinstance(listed, list) else []
        return {str(entry["capability"]): False for entry in entries if isinstance(entry, dict)}

    def _known_parameters(self) -> Members:
        parameters = self.known.returned("query-migrate-parameters")
        return dict(parameters) if isinstance(parameters, dict) else {}

    # run state and migration

    def _set_running(self, running: bool) -> Result:
        if (self.runstate == "running") != running:
            self.runstate = "running" if running else "paused"
            self._emit("RESUME" if running else "STOP", {})
        return {}

    def _switch(self, entries: list[Value]) -> Result:
        if self.migration.get("status") in _RUNNING:
            raise RefusedBySimulator("There's a migration process in progress")
        for entry in entries:
            assert isinstance(entry, dict)
            self.capabilities[str(entry["capability"])] = entry["state"] is True
        return {}

    def _migrate(self, arguments: Members) -> Result:
        if "uri" not in arguments and "channels" not in arguments:
            raise RefusedBySimulator("need either 'uri' or 'channels' argument")
        if self.migration.get("status") in _RUNNING:
            raise RefusedBySimulator("There's a migration process in progress")
        if self.capabilities.get("postcopy-ram") and (blocked := self._blocked()):
            raise RefusedBySimulator(blocked)
        self._run += 1
        self._set_status("setup")
        run = self._run
        self._schedule(0.0, lambda: self._active(run))
        return {}

    def _blocked(self) -> str:
        """Return QEMU's own refusal of postcopy with a `vfio-pci`; it has none before 8.2, and for other drivers."""
        first = self.devices.first_of("vfio-pci")
        return "" if not first or self.known.qemu.startswith("7.") else f"{first}: {_VFIO_BLOCKED}"

    def _active(self, run: int) -> None:
        if run == self._run and self.migration.get("status") == "setup":
            self._set_status("active")
            self._schedule(self._description.migration, lambda: self._over(run))

    def _over(self, run: int) -> None:
        if run != self._run or self.migration.get("status") not in _RUNNING:
            return
        if self._description.fails:
            self._set_status("failed", {"error-desc": self._description.fails})
            return
        if self.runstate == "running":
            self._emit("STOP", {})
        self.runstate = "postmigrate"
        self._set_status("completed")

    def _set_status(self, status: str, more: Members | None = None) -> None:
        left = 0 if status == "completed" else _RAM
        ram: Members = {"transferred": _RAM - left, "total": _RAM, "remaining": left}
        self.migration = {
            "status": status,
            **({} if status in ("failed", "cancelled") else {"ram": ram}),
            **(more or {}),
        }
        if self.capabilities.get("events"):
            self._emit("MIGRATION", {"status": status})

    def _cancel(self) -> Result:
        if self.migration.get("status") in _RUNNING:
            self._set_status("cancelling")
            self._set_status("cancelled")
        return {}

    def _start_postcopy(self) -> Result:
        if not self.capabilities.get("postcopy-ram"):
            raise RefusedBySimulator("Enable postcopy with migrate_set_capability before the start of migration")
        if self.migration.get("status") not in _RUNNING:
            raise RefusedBySimulator(
                "Start postcopy after migration has started" if not self.migration else "No migration"
            )
        self._set_status("postcopy-active")
        return {}

    def _quit(self) -> Result:
        self.has_quit = True
        self._emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        return {}

    def _hmp(self, line: str) -> Result:
        same = as_qmp(parser.read(line))
        if same is None:
            name = parse_line(line).name
            if line.strip() == "info status":
                return f"VM status: {self.runstate}\r\n"
            return "" if not name else f"unknown command: '{name}'\r\n"
        try:
            self.execute(same[0], dict(same[1]))
        except RefusedBySimulator as error:
            return f"Error: {error}\r\n"
        return ""


def _replies(
    script: tuple[Exchange | EventSeen, ...],
) -> dict[str, deque[tuple[Exchange, list[EventSeen]]]]:
    """Return the recorded replies by command, each with the events that came after it."""
    found: dict[str, deque[tuple[Exchange, list[EventSeen]]]] = {}
    events: list[EventSeen] = []
    for line in script:
        if isinstance(line, EventSeen):
            events.append(line)
        elif line.command != "qmp_capabilities":
            # the guard's queries are answered too, and cause no events
            events = events if line.client == GUARD else []
            found.setdefault(_key(line.command, line.arguments or {}), deque()).append((line, events))
    return found


def _key(command: str, arguments: Members) -> str:
    return f"{command} {sorted(arguments.items(), key=lambda member: member[0])!r}"
