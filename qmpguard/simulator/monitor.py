"""A simulated QEMU's monitor: one client after the other, as QEMU's takes them, and faults.

It knows the protocol. What a command returns it asks an `Executor`: the simulated one, or the script of a test. A fault
of a description strikes at its command; `silent`, `delay`, `hold`, `answers`, `send_bytes` and `hang_up` are for
programs that bring a fault about at a moment of their own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

from qmpguard.simulator.clients import SimulatorClients
from qmpguard.simulator.conversation import Asked, Message, QmpConversation
from qmpguard.simulator.description import FaultKind
from qmpguard.simulator.devices import RefusedBySimulator
from qmpguard.simulator.listening import listen
from qmpguard.wire.client_messages import EOL, error_reply, success_reply
from qmpguard.wire.json import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

    from qmpguard.address import Address
    from qmpguard.recording.lines import Members
    from qmpguard.simulator.description import QemuFault
    from qmpguard.wire.json import Value


class Executor(Protocol):
    """What a monitor asks for the answers. ``has_quit``: QEMU ends when it has answered."""

    @property
    def version(self) -> str:
        """QEMU's version, as in "11.1.0"."""
        ...

    @property
    def package(self) -> str:
        """The package in the greeting."""
        ...

    @property
    def has_quit(self) -> bool:
        """Say whether QEMU ends when it has answered."""
        ...

    def execute(self, command: str, arguments: Members, *, oob: bool = False) -> Value:
        """Return what a command returns. Raises `RefusedBySimulator`."""
        ...


class SimulatedMonitor:
    """A QMP monitor at an address.

    ``seen`` are all requests as they came, in their order. ``hold`` are in-band commands that wait until `let_go`;
    with ``silent`` all wait, as at a QEMU that was stopped. ``delay`` is in seconds, before each answer. ``answers``
    are called with a message in place of the machine: they return what the command returns, an error as QEMU has it
    (``class`` and ``desc``), or bytes that are sent as they are. ``pretty`` holds for the next connection.
    """

    def __init__(self, address: Address, machine: Executor, faults: Iterable[QemuFault] = ()) -> None:
        self.seen: list[Message] = []
        self.silent = self.pretty = False
        self.delay = 0.0
        self.hold: set[str] = set()
        self.answers: dict[str, Callable[[Message], Any]] = {}
        self._address = address
        self._machine = machine
        self._faults = _Faults(faults)
        self._held: list[Asked] = []
        self._changed = asyncio.Event()
        self._clients = SimulatorClients()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. Raises `UsageError` and `UnavailableError`."""
        self._clients.begin(await listen(self._address, self.converse))

    async def stop(self) -> None:
        """End, and wait for it."""
        self.die()
        await self._clients.gone()

    def die(self) -> None:
        """End as a QEMU that was killed: close the connection, and accept no other."""
        self._clients.end()

    def hang_up(self) -> None:
        """Close the connection, as a QEMU that was killed and is started again."""
        self._clients.hang_up()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client until it leaves or this side closes; another waits for its turn."""
        async with self._clients.turn(writer):
            machine = self._machine
            conversation = QmpConversation(reader, writer, machine.version, machine.package, pretty=self.pretty)
            self._clients.present = conversation
            await self.serve(conversation)

    async def serve(self, conversation: QmpConversation) -> None:
        """Talk to a client that has its turn."""
        conversation.greet()
        async for asked in conversation.asked():
            await self._take(asked, conversation)

    @property
    def connections(self) -> int:
        """The number of connections that were served so far."""
        return self._clients.served

    @property
    def ended(self) -> asyncio.Event:
        """Set while nothing listens any more."""
        return self._clients.ended

    @property
    def held(self) -> list[Message]:
        """The requests that wait for `let_go`."""
        return [asked.message for asked in self._held]

    @property
    def transport(self) -> asyncio.WriteTransport | None:
        """The last connection's transport."""
        present = self._clients.present
        return None if present is None else present.writer.transport

    def commands(self) -> list[str]:
        """Return the commands that were sent after the negotiation, in their order."""
        return [name for name in map(_command, self.seen) if name != "qmp_capabilities"]

    async def until(self, command: str, count: int = 1) -> None:
        """Wait until a command has come so many times."""
        while self.commands().count(command) < count:
            self._changed.clear()
            await self._changed.wait()

    def let_go(self, *commands: str) -> None:
        """Answer what is held, all of it or some commands, and hold them no more."""
        held, self._held = self._held, []
        self.hold = self.hold - set(commands) if commands else set()
        for asked in held:
            if commands and asked.request.command not in commands:
                self._held.append(asked)
            else:
                self.answer(asked)

    def send_event(self, name: str, data: Members | None = None) -> None:
        """Send an event to the client that is connected, if it has negotiated."""
        if self._clients.present is not None:
            self._clients.present.send_event(name, data or {})

    def send(self, message: Message) -> None:
        """Send a message of any kind."""
        if self._clients.present is not None:
            self._clients.present.send(encode(message) + EOL)

    def send_bytes(self, data: bytes) -> None:
        """Send bytes in the midst of whatever goes on."""
        if self._clients.present is not None:
            self._clients.present.send_bytes(data)

    async def _take(self, asked: Asked, conversation: QmpConversation) -> None:
        self.seen.append(asked.message)
        self._changed.set()
        command = asked.request.command
        if self.silent or (command in self.hold and not asked.request.oob):
            self._held.append(asked)
        elif not (conversation.is_negotiated or command == "qmp_capabilities"):
            conversation.send(conversation.negotiate(asked.request))
        elif (fault := self._faults.at(command)) is not None:
            await self._fail(fault, asked, conversation)
        else:
            if self.delay:
                await asyncio.sleep(self.delay)
            self.answer(asked)

    async def _fail(self, fault: QemuFault, asked: Asked, conversation: QmpConversation) -> None:
        match fault.kind:
            case FaultKind.SILENT:
                pass
            case FaultKind.DIES:
                self.die()
            case FaultKind.HALF:
                reply = self._reply(asked, conversation)
                conversation.send_bytes(reply[: len(reply) // 2])
                self.die()
            case FaultKind.SLOW:
                await asyncio.sleep(fault.seconds)
                self.answer(asked)

    def answer(self, asked: Asked) -> None:
        """Answer to the client that is connected: as QEMU, also where another client has asked."""
        conversation = self._clients.present
        if conversation is None:
            return
        reply = self._reply(asked, conversation)
        if reply.endswith(EOL):
            conversation.send(reply)
        else:
            conversation.send_bytes(reply)
        if self._machine.has_quit:
            self.die()

    def _reply(self, asked: Asked, conversation: QmpConversation) -> bytes:
        request = asked.request
        own = self.answers.get(request.command)
        try:
            if own is not None:
                value = self._own(own, asked, conversation)
            elif request.command == "qmp_capabilities":
                return conversation.negotiate(request)
            else:
                value = self._machine.execute(request.command, request.arguments or {}, oob=request.oob)
        except RefusedBySimulator as error:
            return error_reply(str(error), request.id, kind=error.kind)
        return value if isinstance(value, bytes) else success_reply(value, request.id)

    def _own(self, own: Callable[[Message], Any], asked: Asked, conversation: QmpConversation) -> Any:
        """Return what is answered in place of the machine. Raises `RefusedBySimulator`, and nothing else."""
        try:
            value = own(asked.message)
        except Exception as error:
            raise RefusedBySimulator(f"no answer: {error!r}") from error
        match value:
            case {"class": str(kind), "desc": str(text)}:
                raise RefusedBySimulator(text, kind)
            case _ if asked.request.command == "qmp_capabilities":
                conversation.negotiate(asked.request)
        return value


class _Faults:
    """The faults of a description, and how often each command has come."""

    def __init__(self, faults: Iterable[QemuFault]) -> None:
        self._faults = tuple(faults)
        self._times: Counter[str] = Counter()

    def at(self, command: str) -> QemuFault | None:
        """Count a command, and return the fault that strikes at it now."""
        self._times[command] += 1
        found = (f for f in self._faults if f.command == command and self._times[command] >= f.count)
        return next(found, None)


def _command(message: Message) -> str:
    return str(message.get("execute") or message.get("exec-oob"))
