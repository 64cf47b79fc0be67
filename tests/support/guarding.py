"""What most tests of the proxy begin with: a guard in this process, and clients that speak bytes or qemu.qmp."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpguard import testing
from qmpguard.address import TcpAddress, UnixAddress
from qmpguard.config import VmConfig
from qmpguard.daemon.guard import GuardedVm
from qmpguard.demo.lab import LabUnavailable, system_qemu
from qmpguard.policy.policy import Policy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from qemu.qmp import QMPClient

    from qmpguard.address import Address, QemuAddress
    from qmpguard.proxy.sockets.budget import Budget

#: seconds for anything that answers at once on an idle machine, with room for a busy one
TIMEOUT = 20.0


@asynccontextmanager
async def guarding(
    qemu: Path | QemuAddress,
    listen: Path | Address | None = None,
    *,
    policy: Policy | None = None,
    survey_timeout: float = 20.0,
    watch: float = 0.0,
    budget: Budget | None = None,
    up: bool = True,
) -> AsyncGenerator[GuardedVm]:
    """Guard a QEMU; ``up``: begin when the link stands."""
    if isinstance(qemu, Path):
        listen = listen or qemu.with_name("guard.sock")
        qemu = UnixAddress(str(qemu))
    assert listen is not None
    listen = UnixAddress(str(listen)) if isinstance(listen, Path) else listen
    vm = VmConfig("test", qemu, listen, policy or Policy(), survey_timeout, watch)
    guard = GuardedVm(vm, budget=budget)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(guard.run())
        async with asyncio.timeout(TIMEOUT):
            if up:
                await guard.vm.connected.wait()
            await guard.listening.wait()
        try:
            yield guard
        finally:
            task.cancel()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that nothing announces."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 -- there is no event for it: that is why this is here
            await asyncio.sleep(0.005)


class Client:
    """A client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *requests: Any) -> None:
        """Send requests, with no newline: many real clients send none."""
        for request in requests:
            self.raw(json.dumps(request).encode())

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def with_descriptors(self, data: bytes, *numbers: int) -> None:
        """Send bytes and descriptors in one message, when nothing else is waiting to be sent."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as sock:
            assert socket.send_fds(sock, [data], numbers) == len(data)

    async def line(self) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.readline()

    async def receive(self) -> Any:
        """The next message, be it on one line or pretty; None at the end."""
        message = line = await self.line()
        while message.startswith(b"{") and not message.rstrip().endswith(b"}") and line:
            while (line := await self.line())[:1] not in (b"}", b""):
                message += line
            message += line
        return json.loads(message) if message else None

    async def ask(self, command: str, arguments: dict[str, Any] | None = None, **members: Any) -> Any:
        """Send a request and return its reply, passing over events. Raises `ConnectionError` where none comes."""
        request = {"execute": command, **members}
        if arguments is not None:
            request["arguments"] = arguments
        self.send(request)
        while (reply := await self.receive()) is not None and "event" in reply:
            pass
        if reply is None:
            raise ConnectionError("the connection was closed before the reply")
        return reply

    async def closed(self) -> bool:
        """Whether the other side closes, whatever it sends before."""
        async with asyncio.timeout(TIMEOUT):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        return True


@asynccontextmanager
async def connected(
    path: Path | TcpAddress, *, negotiate: bool = True, oob: bool = False, early: bool = False
) -> AsyncGenerator[Client]:
    """Connect a client that speaks bytes, as soon as somebody listens; ``negotiate``: past qmp_capabilities.

    ``early``: events may come before the greeting, as QEMU itself sends them now and then; a guard never does.
    """
    reader, writer = await _open(path)
    client = Client(reader, writer)
    try:
        if negotiate:
            greeting = await client.receive()
            while early and "event" in greeting:
                greeting = await client.receive()
            assert "QMP" in greeting, greeting
            reply = await client.ask("qmp_capabilities", {"enable": ["oob"]} if oob else None)
            assert reply == {"return": {}}, reply
        yield client
    finally:
        writer.close()


async def _open(path: Path | TcpAddress) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect; after QEMU's end the guard refuses everybody until there is a link again."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                if isinstance(path, TcpAddress):
                    return await asyncio.open_connection(path.host, path.port, limit=1 << 26)
                return await asyncio.open_unix_connection(path, limit=1 << 26)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def qmp_client(path: Path) -> AsyncGenerator[QMPClient]:
    """Connect a qemu.qmp client."""
    await eventually(path.exists)  # a guard's socket comes back with its QEMU
    async with testing.qmp_client(path) as client:
        yield client


def capabilities(**states: bool) -> dict[str, Any]:
    """Arguments of migrate-set-capabilities: ``postcopy_ram=True`` is postcopy-ram on."""
    return {"capabilities": [{"capability": n.replace("_", "-"), "state": s} for n, s in states.items()]}


def assert_refused(reply: Any, rule: str) -> None:
    """The reply is the guard's refusal by that rule, in QEMU's error class."""
    testing.assert_refused(reply, rule)
    # QEMU's class for a command that it does not have: tools tell features by it
    assert reply["error"]["class"] == ("CommandNotFound" if rule == "unknown-command" else "GenericError")


@cache
def system_version() -> tuple[int, ...]:
    """The version of the system's QEMU; empty where there is none."""
    try:
        told = subprocess.run([system_qemu(), "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    except (OSError, LabUnavailable):
        return ()
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, match.groups())) if match else ()
