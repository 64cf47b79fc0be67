"""QEMU's machine at each line of a recording: from its own replies and events, and the commands that it accepted.

It answers the queries of a survey. Where the recording does not have the answer, it says so; it never guesses.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING

from qmpguard.policy.bursts import Missing
from qmpguard.policy.hmp import parser
from qmpguard.policy.hmp.translation import as_qmp
from qmpguard.policy.migration import DANGEROUS
from qmpguard.policy.survey import ANONYMOUS, PERIPHERAL
from qmpguard.recording.lines import EventSeen, Exchange

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpguard.policy.bursts import Answer, Query
    from qmpguard.recording.lines import Members
    from qmpguard.wire.json import Value

#: what QEMU answers for a property of a vfio-pci device that is not set
_UNSET: Members = {"host": "ffff:ff:ff.f", "failover_pair_id": ""}
#: prefixes of the paths of devices
_FOLDERS = (PERIPHERAL, ANONYMOUS)


class NotRecorded(Exception):  # noqa: N818 -- a fact about the recording
    """The recording has no answer to a query."""


class RefusedThen(Exception):  # noqa: N818 -- a fact about the recording
    """QEMU has refused a query of the survey."""

    def __init__(self, query: Query, error: Members) -> None:
        super().__init__(f"QEMU refused {query.command}: {error.get('desc')}")
        self.command, self.error_class, self.text = query.command, str(error.get("class")), str(error.get("desc"))


class RecordedMachine:
    """One QEMU, as far as its recording has been read."""

    def __init__(self) -> None:
        self.devices: dict[str, Members] = {}  # by QOM path
        self.is_started = False  # its command line is known
        self._capabilities: dict[str, Value] | None = None
        self._runstate: str | None = None
        self._migration: Members = {}
        self._replies: dict[tuple[str, str], Members] = {}

    def starts(self, arguments: Iterable[str]) -> None:
        """Take QEMU's command line."""
        self.is_started, self._runstate = True, "prelaunch"
        self._capabilities = dict.fromkeys(sorted(DANGEROUS), False)
        for option, value in pairwise(arguments):
            if option == "-global" and value.startswith("migration"):
                self._capabilities = None  # it may switch some on
            elif option == "-device":
                self._plugged(_json(value) if value.startswith("{") else _options(value))
            elif option == "-incoming":
                self._runstate = "inmigrate"

    def happened(self, line: Exchange | EventSeen) -> None:
        """Take an event, or a command with its reply."""
        if isinstance(line, EventSeen):
            self._on_event(line)
            return
        self._replies[_key(line.command, line.arguments)] = line.reply
        if line.returned:
            self._on_returned(line, line.reply["return"])

    def answer(self, query: Query) -> Answer:
        """Return QEMU's answer to a query. Raises `NotRecorded`, and `RefusedThen` for one that is not optional."""
        try:
            return self._answer(query)
        except _NoSuchObject:
            return Missing()

    def _answer(self, query: Query) -> Answer:
        arguments: Members = dict(query.arguments)
        match query.command:
            case "query-migrate-capabilities" if self._capabilities is not None:
                return [{"state": state, "capability": name} for name, state in self._capabilities.items()]
            case "query-migrate":
                return self._migration
            case "query-status" if self._runstate is not None:
                return {"status": self._runstate}
            case "qom-list" if self._knows(folder := str(arguments["path"])):
                return self._listed(folder)
            case "qom-get" if self._replies.get(_key(query.command, arguments)) is None:
                return self._property(str(arguments["path"]), str(arguments["property"]))
            case _:
                return self._recorded(query, arguments)

    def _recorded(self, query: Query, arguments: Members) -> Answer:
        reply = self._replies.get(_key(query.command, arguments))
        if reply is None:
            if query.command == "query-migrate-parameters" and self.is_started:
                return {"mode": "normal"}  # QEMU's default, which its command line cannot change
            if query.command == "query-named-block-nodes" and self.is_started:
                return []
            raise NotRecorded(query.command)
        if "return" in reply:
            return reply["return"]
        if query.optional:
            return Missing()
        error = reply.get("error")
        raise RefusedThen(query, error if isinstance(error, dict) else {})

    def _knows(self, folder: str) -> bool:
        return self.is_started or _key("qom-list", {"path": folder}) in self._replies

    def _listed(self, folder: str) -> Value:
        found = [path.rpartition("/") for path in self.devices]
        return [
            {"name": name, "type": f"child<{self.devices[inside + slash + name]['driver']}>"}
            for inside, slash, name in found
            if inside == folder
        ]

    def _property(self, path: str, name: str) -> Value:
        device = next((device for at, device in self.devices.items() if at == path or at.endswith(f"/{path}")), None)
        if device is None:
            raise _NoSuchObject
        if name == "type":
            return device["driver"]
        if name in device:
            return device[name]
        if self.is_started or device.keys() != {"driver"}:  # else only a list has shown it
            raise _NoSuchObject
        raise NotRecorded(f"{name} of {path}")

    def _on_event(self, line: EventSeen) -> None:
        match line.name, line.data:
            case "MIGRATION", {"status": str(status)}:
                self._migration = {**self._migration, "status": status}
            case "STOP", _:
                self._runstate = "paused"
            case "RESUME", _:
                self._runstate = "running"
            case "DEVICE_DELETED", {"path": str(path)}:
                self.devices.pop(path, None)
            case _:
                pass  # it changes nothing that rules look at

    def _on_returned(self, line: Exchange, value: Value) -> None:
        match line.command, value:
            case "query-migrate-capabilities", list(entries):
                self._capabilities = dict(_states(entries))
            case "query-migrate", dict(answer):
                self._migration = answer
            case "query-status", {"status": str(status)}:
                self._runstate = status
            case "qom-list", list(entries):
                self._relist(str((line.arguments or {}).get("path")), entries)
            case "human-monitor-command", str(text) if not any(t.startswith("Error") for t in text.splitlines()):
                same = as_qmp(parser.read(str((line.arguments or {}).get("command-line"))))
                if same is not None:
                    self._accepted(same[0], dict(same[1]))
            case command, _:
                self._accepted(command, line.arguments or {})

    def _accepted(self, command: str, arguments: Members) -> None:
        match command, arguments:
            case "migrate-set-capabilities", {"capabilities": list(entries)}:
                self._capabilities = {**(self._capabilities or {}), **dict(_states(entries))}
            case "device_add", {"driver": str()}:
                self._plugged(arguments)
            case "migrate", _:
                self._migration = {"status": "setup"}
            case "cont", _:
                self._runstate = "running"
            case "stop", _:
                self._runstate = "paused"
            case "migrate-set-parameters", _:
                self._replies.pop(_key("query-migrate-parameters", None), None)
            case _:
                pass  # it changes nothing that rules look at

    def _plugged(self, arguments: Members) -> None:
        if not isinstance(arguments.get("driver"), str):
            return  # QEMU has no such device
        number = sum(path.startswith(ANONYMOUS) for path in self.devices)
        place = f"{PERIPHERAL}/{arguments['id']}" if "id" in arguments else f"{ANONYMOUS}/device[{number}]"
        defaults = {} if arguments.get("driver") == "vfio-user-pci" else _UNSET
        self.devices[place] = {**defaults, **arguments}

    def _relist(self, folder: str, entries: list[Value]) -> None:
        """Take QEMU's list of the devices in one folder."""
        if folder not in _FOLDERS:
            return
        listed = dict(_children(folder, entries))
        self.devices = {p: d for p, d in self.devices.items() if p.rpartition("/")[0] != folder or p in listed}
        for path, driver in listed.items():
            if self.devices.get(path, {}).get("driver") != driver:  # unknown, or hidden, and another has its id
                self.devices[path] = {"driver": driver}


class _NoSuchObject(Exception):  # noqa: N818
    """There is no such object or property."""


def _key(command: str, arguments: Members | None) -> tuple[str, str]:
    return command, repr(sorted((arguments or {}).items(), key=lambda member: member[0]))


def _states(entries: list[Value]) -> Iterable[tuple[str, Value]]:
    for entry in entries:
        match entry:
            case {"capability": str(name), "state": bool(state)}:
                yield name, state
            case _:
                pass  # QEMU refuses such an entry


def _children(folder: str, entries: list[Value]) -> Iterable[tuple[str, str]]:
    for entry in entries:
        match entry:
            case {"name": str(name), "type": str(kind)} if kind.startswith("child<"):
                yield f"{folder}/{name}", kind[6:-1]
            case _:
                pass  # a property


def _json(text: str) -> Members:
    """Return the device that is given as JSON. What cannot be read is no device: QEMU has not started with it."""
    try:
        device = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return device if isinstance(device, dict) else {}


def _options(text: str) -> Members:
    driver, _, rest = text.partition(",")
    pairs = (option.partition("=") for option in rest.split(",") if option)
    return {"driver": driver, **{name: value for name, _, value in pairs}}
