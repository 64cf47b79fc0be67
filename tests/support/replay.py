"""A recorded conversation with a real QEMU, replayed: what QEMU was at each command, from what QEMU itself had said."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpguard.policy.hmp import parser
from qmpguard.policy.hmp.translation import as_qmp
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.survey import Missing, Query, inquire
from qmpguard.policy.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
Line = dict[str, Any]


def lines(name: str) -> list[Line]:
    return [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()]


def recorded(version: str, command: str) -> Any:
    """What a version answered to a query, wherever it was asked."""
    for path in sorted(TRANSCRIPTS.glob(f"{version}-*.jsonl")):
        for line in lines(path.stem):
            if line.get("execute") == command and "return" in line["reply"]:
                return line["reply"]["return"]
    raise LookupError(command)


@dataclass
class Qemu:
    """One side of a recording, as far as it has been replayed."""

    capabilities: dict[str, bool]
    runstate: str = "prelaunch"
    migration: Any = field(default_factory=dict)
    devices: dict[str, dict[str, Any]] = field(default_factory=dict)

    def starts(self, arguments: list[str]) -> None:
        for option, value in pairwise(arguments):
            if option == "-device":
                text = json.loads(value) if value.startswith("{") else _options(value)
                self._plugged(text)
            elif option == "-incoming":
                self.runstate = "inmigrate"

    def _plugged(self, arguments: dict[str, Any]) -> None:
        number = sum("-anon" in path for path in self.devices)
        place = f"/{arguments['id']}" if "id" in arguments else f"-anon/device[{number}]"
        defaults = {} if arguments["driver"] == "vfio-user-pci" else {"host": "ffff:ff:ff.f", "failover_pair_id": ""}
        self.devices[f"/machine/peripheral{place}"] = defaults | arguments

    def happened(self, line: Line) -> None:
        """Take what QEMU said by itself, or the effect of a command that it accepted."""
        match line:
            case {"event": "MIGRATION", "data": {"status": status}}:
                self.migration = {**self.migration, "status": status}
            case {"event": "STOP"}:
                self.runstate = "paused"
            case {"event": "RESUME"} | {"execute": "cont", "reply": {"return": {}}}:
                self.runstate = "running"
            case {"event": "DEVICE_DELETED", "data": {"path": path}}:
                self.devices.pop(path, None)
            case {"execute": "query-migrate", "reply": {"return": answer}}:
                self.migration = answer
            case {"execute": "query-status", "reply": {"return": {"status": status}}}:
                self.runstate = status
            case {"execute": "human-monitor-command", "arguments": {"command-line": text}, "reply": {"return": said}}:
                same = None if said.startswith("Error") else as_qmp(parser.read(text))
                if same is not None:
                    self._accepted(*same)
            case {"execute": command, "reply": {"return": _}}:
                self._accepted(command, line.get("arguments", {}))
            case _:
                pass  # an error, or an event that changes nothing here

    def _accepted(self, command: str, arguments: Any) -> None:
        match command:
            case "migrate-set-capabilities":
                self.capabilities |= {entry["capability"]: entry["state"] for entry in arguments["capabilities"]}
            case "device_add":
                self._plugged(arguments)
            case "migrate":
                self.migration = {"status": "setup"}
            case _:
                pass  # it changes nothing that rules look at

    def answer(self, query: Query) -> Any:
        arguments: dict[str, Any] = dict(query.arguments)
        match query.command:
            case "query-migrate-capabilities":
                return [{"state": state, "capability": name} for name, state in self.capabilities.items()]
            case "query-migrate":
                return self.migration
            case "query-migrate-parameters":
                return {"mode": "normal"}  # no recording sets another one
            case "query-status":
                return {"status": self.runstate, "running": self.runstate == "running"}
            case "qom-list":
                found = [p.rpartition("/") for p in self.devices]
                return [{"name": "type", "type": "string"}] + [
                    {"name": name, "type": f"child<{self.devices[folder + slash + name]['driver']}>"}
                    for folder, slash, name in found
                    if folder == arguments["path"]
                ]
            case "qom-get" if arguments["property"] == "type":
                return next((d["driver"] for p, d in self.devices.items() if p.endswith(arguments["path"])), Missing())
            case "qom-get":
                return self.devices[arguments["path"]].get(arguments["property"], Missing())
            case "query-named-block-nodes":
                return []
            case other:
                raise LookupError(other)

    def verdict(self, command: str, arguments: Any, policy: Policy) -> Verdict | None:
        """What the guard would have said; None where it does not judge."""
        reading = read(command, arguments, policy)
        if reading is None or isinstance(reading, Harmless):
            return None
        assert not isinstance(reading, Unreadable), reading
        questions = inquire(reading, policy)
        try:
            queries = next(questions)
            while True:
                queries = questions.send(tuple(self.answer(query) for query in queries))
        except StopIteration as done:
            verdict: Verdict = done.value[0]
            return verdict


def _options(text: str) -> dict[str, Any]:
    driver, _, rest = text.partition(",")
    return {"driver": driver} | dict(option.split("=", 1) for option in rest.split(",") if option)


def judged(name: str, policy: Policy) -> Iterator[tuple[Line, Verdict | None, Qemu]]:
    """Every command of a recording, what the guard says to it, and the machine that it was for."""
    version = name.partition("-")[0]
    off = {entry["capability"]: False for entry in recorded(version, "query-migrate-capabilities")}
    sides: dict[str, Qemu] = {}
    for line in lines(name):
        qemu = sides.setdefault(line["who"], Qemu(dict(off)))
        if "start" in line:
            qemu.starts(line["start"])
            continue
        if "execute" in line:
            yield line, qemu.verdict(line["execute"], line.get("arguments", {}), policy), qemu
        qemu.happened(line)
