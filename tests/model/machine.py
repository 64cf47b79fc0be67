"""A QEMU as a small state machine: devices, capabilities, a migration, a queue of requests, names of descriptors.

It reads everything at once, executes one in-band request after the other and an out-of-band request at any time, and
refuses what every QEMU since 7.2 refuses. It has no check of its own for VFIO devices, as 7.2 to 8.1 have none. Where
its connection ends, it may still execute what it has read, until it takes the next connection.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.model.streams import BrokenPromiseError, Token

if TYPE_CHECKING:
    from collections.abc import Callable

#: a migration that is in one of these is over, or never was
AT_REST = (None, "completed", "failed", "cancelled")
DANGEROUS = ("postcopy-ram", "background-snapshot")


class Order(NamedTuple):
    """A request that QEMU has read: its own words, whose it is, and the descriptor that came with it."""

    words: dict[str, Any]
    owner: str
    token: Token | None

    @property
    def command(self) -> str:
        return str(self.words.get("execute") or self.words.get("exec-oob"))


class Refused(Exception):  # noqa: N818 -- QEMU's answer
    """QEMU's error."""


class Machine:
    """QEMU's state. ``on_combined`` is called with the order by which a VFIO device and a capability meet."""

    def __init__(self, on_combined: Callable[[Order], None], devices: tuple[str, ...] = ()) -> None:
        self.devices = dict.fromkeys(devices, "vfio-pci")
        self.capabilities = {"postcopy-ram": False, "background-snapshot": False}
        self.migration: str | None = None
        self.in_band: deque[Order] = deque()
        self.out_of_band: deque[Order] = deque()
        self.output: deque[bytes] = deque()
        self.names: dict[str, Token] = {}
        self._batch: Token | None = None  # that no request has taken
        self._gone: set[str] = set()
        self._left_on: set[str] = set()  # since the last migration
        self._on_combined = on_combined

    @property
    def combined(self) -> bool:
        """Whether a VFIO device has met one of the two capabilities: in a migration, or for the next one.

        QEMU leaves a capability on after a migration. That alone is no harm: the next `migrate` is refused.
        """
        on = {name for name in DANGEROUS if self.capabilities[name]}
        return bool(self.devices) and bool(on if self.migrating else on - self._left_on)

    @property
    def migrating(self) -> bool:
        return self.migration not in AT_REST

    def receive(self, data: bytes, owner: str, token: Token | None) -> None:
        """Read one request."""
        if token is not None:
            token.pass_on()
            if self._batch is not None:
                raise BrokenPromiseError(f"descriptor {token.name} pushes {self._batch.name} out of QEMU")
            self._batch = token
        order = Order(json.loads(data), owner, token)
        (self.out_of_band if "exec-oob" in order.words else self.in_band).append(order)

    def accept(self) -> None:
        """Take a new connection: what the last one has left is gone."""
        self.in_band.clear()
        self.out_of_band.clear()
        self.output.clear()
        self._batch = None
        self.names.clear()  # no client is left that holds one

    def execute(self) -> None:
        """Execute the next in-band request."""
        self._answer(self.in_band.popleft())

    def execute_out_of_band(self) -> None:
        """Execute the next out-of-band request."""
        self._answer(self.out_of_band.popleft())

    def forget(self, client: str) -> None:
        """Called when a client has left: the names that it gave are free for others."""
        self._gone.add(client)

    def end_migration(self, status: str) -> None:
        """End the migration."""
        self.migration = status

    def _answer(self, order: Order) -> None:
        before = self.combined
        identity = order.words["id"]
        try:
            told: dict[str, Any] = {"return": self._result(order), "id": identity}
        except Refused as error:
            told = {"id": identity, "error": {"class": "GenericError", "desc": str(error)}}
        self.output.append(json.dumps(told).encode() + b"\r\n")
        if self.combined and not before:
            self._on_combined(order)

    def _result(self, order: Order) -> Any:
        arguments = order.words.get("arguments", {})
        match order.command:
            case "query-migrate-capabilities":
                return [{"capability": name, "state": state} for name, state in self.capabilities.items()]
            case "query-migrate":
                return {} if self.migration is None else {"status": self.migration}
            case "query-status":
                return {"status": "running", "running": True}
            case "qom-list":
                here = () if arguments["path"].endswith("-anon") else self.devices.items()
                return [{"name": name, "type": f"child<{driver}>"} for name, driver in here]
            case "qom-get":
                raise Refused(f"Property '{arguments['property']}' not found")
            case "query-named-block-nodes" | "query-chardev" | "query-memdev":
                return []
            case _:
                self._change(order, arguments)
                return {}

    def _change(self, order: Order, arguments: dict[str, Any]) -> None:
        match order.command:
            case "device_add" if arguments["id"] in self.devices:
                raise Refused(f"Duplicate device ID '{arguments['id']}'")
            case "device_add":
                self.devices[arguments["id"]] = arguments["driver"]
            case "migrate-set-capabilities" if self.migrating:
                raise Refused("There's a migration process in progress")
            case "migrate-set-capabilities":
                states = {each["capability"]: each["state"] for each in arguments["capabilities"]}
                self.capabilities |= states
                self._left_on -= states.keys()
            case "migrate" if self.migrating:
                raise Refused("There's a migration process in progress")
            case "migrate":
                self.migration = "active"
                self._left_on = {name for name, state in self.capabilities.items() if state}
            case "getfd":
                self._take(order, str(arguments["fdname"]))
            case _:
                pass

    def _take(self, order: Order, name: str) -> None:
        token, self._batch = self._batch, None
        if token is None:
            raise Refused("No file descriptor supplied via SCM_RIGHTS")
        if token is not order.token:
            raise BrokenPromiseError(f"{order.owner} was given descriptor {token.name}")
        if name in self.names and self.names[name].name[0] not in (token.name[0], *self._gone):
            raise BrokenPromiseError(f"descriptor {name!r} of {self.names[name].name} was replaced by {token.name}")
        self.names[name] = token
