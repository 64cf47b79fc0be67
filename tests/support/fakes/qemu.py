"""A QEMU for what a real one cannot do on demand: silence, odd order, death between two bytes, old versions."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from tests.support.fakes.messages import Messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Request = dict[str, Any]

GREETING = {
    "QMP": {
        "version": {"qemu": {"micro": 0, "minor": 1, "major": 8}, "package": "fake"},
        "capabilities": ["oob"],
    }
}


class FakeQemu:
    """Serves one connection after the other, and answers what its state says; tests may hold answers back.

    ``seen`` is every request, in order. ``hold`` names commands that wait until `let_go` is called.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.capabilities: dict[str, bool] = {"postcopy-ram": False, "background-snapshot": False, "xbzrle": False}
        self.devices: dict[str, str] = {}
        self.blocks: dict[str, tuple[str, str]] = {}  # a node's name: its driver and file
        self.runstate = "running"
        self.migration: str | None = None
        self.progress: dict[str, Any] = {}
        self.silent = False  # as one that was sent SIGSTOP
        self.seen: list[Request] = []
        self.hold: set[str] = set()
        self.answers: dict[str, Callable[[Request], Any]] = {}
        self.schema: list[Request] = [
            {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
            {"name": "migrate", "meta-type": "command", "arg-type": "2", "ret-type": "1"},
            {"name": "0", "meta-type": "object", "members": []},
            {"name": "2", "meta-type": "object", "members": [{"name": "uri", "type": "str"}]},
        ]
        self.pretty = False
        self.connections = 0
        self._held: list[Request] = []
        self._arrived = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 26)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.die()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    def die(self) -> None:
        """Close the connection as a killed QEMU would."""
        if self._writer is not None:
            self._writer.close()

    def commands(self) -> list[str]:
        """The commands seen so far, without the guard's handshake and the schema."""
        names = [r.get("execute") or r.get("exec-oob") for r in self.seen]
        return [str(n) for n in names if n not in ("qmp_capabilities", "query-qmp-schema", "query-target")]

    async def until(self, command: str, count: int = 1) -> None:
        """Wait until a command has arrived so many times."""
        async with asyncio.timeout(5):
            while self.commands().count(command) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def let_go(self, *commands: str) -> None:
        """Answer what was held back, all of it or some commands only, and hold them no more."""
        held, self._held = self._held, []
        self.hold = self.hold - set(commands) if commands else set()
        for request in held:
            if commands and request.get("execute") not in commands:
                self._held.append(request)
            else:
                self._answer(request)

    def emit(self, event: str, **data: Any) -> None:
        """Send an event."""
        self.send({"timestamp": {"seconds": 1, "microseconds": 2}, "event": event, "data": data})

    def send(self, message: Any) -> None:
        """Send a message, on one line or prettily."""
        text = json.dumps(message, indent=4 if self.pretty else None)
        self.send_raw(text.replace("\n", "\r\n").encode() + b"\r\n")

    def send_raw(self, data: bytes) -> None:
        """Send bytes."""
        assert self._writer is not None
        if not self._writer.is_closing():
            self._writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writer = writer
        self.send(GREETING)
        with suppress(ConnectionError):
            messages = Messages(reader)
            while message := await messages.next():  # what was cut off by the end is no request
                self._take(json.loads(message))
        writer.close()

    def _take(self, request: Request) -> None:
        self.seen.append(request)
        self._arrived.set()
        if self.silent or request.get("execute") in self.hold:
            self._held.append(request)
        else:
            self._answer(request)

    def _answer(self, request: Request) -> None:
        name = request.get("execute") or request.get("exec-oob")
        arguments = request.get("arguments", {})
        special = self.answers.get(str(name))
        try:
            result = special(request) if special else self._result(str(name), arguments)
        except Exception as error:  # noqa: BLE001 -- as QEMU, it answers whatever it is asked
            result = {"class": "GenericError", "desc": f"odd arguments: {error}"}
        key = "error" if isinstance(result, dict) and "class" in result else "return"
        identity = {"id": request["id"]} if "id" in request else {}
        self.send({**identity, key: result} if key == "error" else {key: result, **identity})

    def _listed(self, name: str) -> list[Request]:
        if name == "query-qmp-schema":
            return self.schema
        if name == "query-chardev":
            return [{"label": "compat_monitor0", "filename": f"unix:{self.path},server=on"}]
        return [{"drv": driver, "file": file, "node-name": n} for n, (driver, file) in self.blocks.items()]

    def _result(self, name: str, arguments: dict[str, Any]) -> Any:
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
                return {"class": "GenericError", "desc": f"Property '{arguments['property']}' not found"}
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
                return {"class": "CommandNotFound", "desc": "The command nonsense has not been found"}
            case _:
                return {}
