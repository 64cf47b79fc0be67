"""A QEMU for what a real one cannot do on demand: silence, odd order, death between two bytes, old versions.

The protocol, and how faults are brought about, are the simulator's: `qmpguard.simulator.monitor`. Here is only what it
answers: anything, to any command.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qmpguard.address import UnixAddress
from qmpguard.simulator.devices import RefusedBySimulator
from qmpguard.simulator.monitor import SimulatedMonitor

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.simulator.conversation import QmpConversation

Request = dict[str, Any]

GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 0, "minor": 1, "major": 8}, "package": "fake"},
        "capabilities": ["oob"],
    }
}


class FakeQemu(SimulatedMonitor):
    """Answers what its state says. It is what its monitor asks, too."""

    def __init__(self, path: Path) -> None:
        super().__init__(UnixAddress(str(path)), self)
        self.path = path
        self.version, self.package, self.has_quit = "8.1.0", "fake", False
        self.capabilities: dict[str, bool] = {"postcopy-ram": False, "background-snapshot": False, "xbzrle": False}
        self.devices: dict[str, str] = {}
        self.blocks: dict[str, tuple[str, str]] = {}  # a node's name: its driver and file
        self.runstate = "running"
        self.migration: str | None = None
        self.progress: dict[str, Any] = {}
        self.schema: list[Request] = [
            {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
            {"name": "migrate", "meta-type": "command", "arg-type": "2", "ret-type": "1"},
            {"name": "0", "meta-type": "object", "members": []},
            {"name": "2", "meta-type": "object", "members": [{"name": "uri", "type": "str"}]},
        ]

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        await super().start()

    def die(self) -> None:
        """Close the connection as a killed QEMU would; it is there again at once."""
        self.hang_up()

    async def stop(self) -> None:
        super().die()
        await super().stop()

    def commands(self) -> list[str]:
        """The commands seen so far, without the guard's handshake and the schema."""
        return [name for name in super().commands() if name not in ("query-qmp-schema", "query-target")]

    async def until(self, command: str, count: int = 1) -> None:
        async with asyncio.timeout(5):
            await super().until(command, count)

    def emit(self, event: str, **data: Any) -> None:
        """Send an event, whether the client has negotiated or not."""
        self.send({"timestamp": {"seconds": 1, "microseconds": 2}, "event": event, "data": data})

    def execute(self, command: str, arguments: dict[str, Any], *, oob: bool = False) -> Any:
        """Return what a command returns; as QEMU, it answers whatever it is asked."""
        try:
            result = self.result(command, arguments)
        except (KeyError, TypeError, AttributeError) as error:
            raise RefusedBySimulator(f"odd arguments: {error}") from error
        return result

    def _listed(self, name: str) -> list[Request]:
        if name == "query-qmp-schema":
            return self.schema
        if name == "query-chardev":
            return [{"label": "compat_monitor0", "filename": f"unix:{self.path},server=on"}]
        return [{"drv": driver, "file": file, "node-name": n} for n, (driver, file) in self.blocks.items()]

    def result(self, name: str, arguments: dict[str, Any]) -> Any:
        match name:
            case "query-memdev":
                return []
            case "query-migrate-capabilities":
                return [{"capability": c, "state": s} for c, s in self.capabilities.items()]
            case "migrate-set-capabilities":
                self.capabilities |= {e["capability"]: e["state"] for e in arguments["capabilities"]}
                return {}
            case "qom-list":
                anonymous = arguments["path"].endswith("-anon")
                found = [{"name": "type", "type": "string"}]
                return found + [
                    {"name": n, "type": f"child<{t}>"} for n, t in self.devices.items() if anonymous == ("[" in n)
                ]
            case "qom-get":
                raise RefusedBySimulator(f"Property '{arguments['property']}' not found")
            case "query-status":
                return {"status": self.runstate, "running": self.runstate == "running"}
            case "query-migrate":
                return {} if self.migration is None else {"status": self.migration, **self.progress}
            case "device_add":
                self.devices[arguments["id"]] = arguments["driver"]
                return {}
            case "device_del":
                self.devices.pop(arguments["id"], None)
                return {}
            case "query-qmp-schema" | "query-named-block-nodes" | "query-chardev":
                return self._listed(name)
            case "nonsense":
                raise RefusedBySimulator("The command nonsense has not been found", "CommandNotFound")
            case _:
                return {}


class ForgetfulQemu(FakeQemu):
    """Keeps nothing of the requests, of which a lab sends millions; it holds none back, and is never silent."""

    async def serve(self, conversation: QmpConversation) -> None:
        conversation.greet()
        async for asked in conversation.asked():
            self.answer(asked)
