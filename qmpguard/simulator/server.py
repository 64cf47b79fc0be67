"""A simulated QEMU at a socket: one client after the other, as QEMU's monitor takes them, with the faults asked for."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.address import TcpAddress, UnixAddress
from qmpguard.errors import UnavailableError, UsageError
from qmpguard.simulator.conversation import QmpConversation
from qmpguard.simulator.description import FaultKind
from qmpguard.simulator.devices import RefusedBySimulator
from qmpguard.simulator.machine import SimulatedMachine
from qmpguard.tasks import Tasks
from qmpguard.wire.client_messages import COMMAND_NOT_FOUND, error_reply, success_reply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from qmpguard.address import Address
    from qmpguard.recording.lines import Members
    from qmpguard.simulator.description import Description, QemuFault
    from qmpguard.wire.client_messages import Request

#: connections that wait while another client holds the monitor
_BACKLOG = 16


class SimulatedQemu:
    """A running simulated QEMU. ``commands`` are those that clients have sent, in their order."""

    def __init__(self, description: Description) -> None:
        self.commands: list[str] = []
        self.ended = asyncio.Event()
        self.machine = SimulatedMachine(description, self.emit, self._schedule)
        self._faults = description.faults
        self._times: Counter[str] = Counter()
        self._conversation: QmpConversation | None = None

    def emit(self, event: str, data: Members | None = None) -> None:
        """Send an event to the client that is connected, if it has negotiated."""
        if self._conversation is not None:
            self._conversation.send_event(event, data or {})

    def die(self) -> None:
        """End as a QEMU that was killed: close the connection, and accept no other."""
        self.ended.set()
        if self._conversation is not None:
            self._conversation.close()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client until it leaves, or QEMU ends."""
        self._conversation = QmpConversation(writer, self.machine.known.qemu, self.machine.known.package, self._answer)
        try:
            await self._conversation.serve(reader)
        finally:
            self._conversation = None
            writer.close()

    def _schedule(self, seconds: float, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, callback)

    async def _answer(self, request: Request) -> None:
        self.commands.append(request.command)
        self._times[request.command] += 1
        fault = next((f for f in self._faults if self._strikes(f, request.command)), None)
        if fault is None:
            self._send(self._reply(request))
            return
        await self._fail(fault, request)

    def _strikes(self, fault: QemuFault, command: str) -> bool:
        return fault.command == command and self._times[command] >= fault.count

    async def _fail(self, fault: QemuFault, request: Request) -> None:
        match fault.kind:
            case FaultKind.SILENT:
                pass
            case FaultKind.DIES:
                self.die()
            case FaultKind.HALF:
                reply = self._reply(request)
                self._send(reply[: len(reply) // 2])
                self.die()
            case FaultKind.SLOW:
                await asyncio.sleep(fault.seconds)
                self._send(self._reply(request))

    def _send(self, data: bytes) -> None:
        if self._conversation is not None:
            self._conversation.send(data)
        if self.machine.has_quit:
            self.die()

    def _reply(self, request: Request) -> bytes:
        if request.command == "qmp_capabilities":
            text = "Capabilities negotiation is already complete, command ignored"
            return error_reply(text, request.id, kind=COMMAND_NOT_FOUND)
        try:
            value = self.machine.execute(request.command, request.arguments or {}, oob=request.oob)
        except RefusedBySimulator as error:
            return error_reply(str(error), request.id, kind=error.kind)
        return success_reply(value, request.id)


@asynccontextmanager
async def simulating(description: Description, address: Address) -> AsyncGenerator[SimulatedQemu]:
    """Simulate a QEMU at an address for as long as the block lasts.

    The block begins when clients can connect. Raises `UsageError` for a descriptor, and `UnavailableError` where the
    socket cannot be had.
    """
    listener = _listen(address)
    qemu = SimulatedQemu(description)
    async with Tasks("simulator") as tasks:
        task = tasks.start("simulator", _accept(qemu, listener))
        try:
            yield qemu
        finally:
            qemu.die()
            task.cancel()
            listener.close()
            if isinstance(address, UnixAddress):
                _unlink(address.path)


async def _accept(qemu: SimulatedQemu, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while not qemu.ended.is_set():
        sock, _ = await loop.sock_accept(listener)
        await qemu.converse(*await asyncio.open_connection(sock=sock))
    listener.close()


def _listen(address: Address) -> socket.socket:
    where: str | tuple[str, int]
    match address:
        case UnixAddress(path):
            family, where = socket.AF_UNIX, path
        case TcpAddress(host, port):
            family, where = socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port)
        case _:
            raise UsageError(f"{address}: a simulated QEMU listens at a unix socket or at TCP")
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"{address}: {error.strerror}") from error
    return listener


def _unlink(path: str) -> None:
    with suppress(OSError):
        Path(path).unlink()
