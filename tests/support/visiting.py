"""What tests of the admin interface begin with: a guard with its interface on a unix socket or on TCP."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from qmpguard.address import Address, TcpAddress, UnixAddress
from qmpguard.admin.server import Admin
from tests.support.guarding import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from qmpguard.admin.state_cache import VmState
    from qmpguard.daemon.guard import Guard
    from qmpguard.record import Run

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class AdminClient:
    """An HTTP client of the admin interface."""

    http: aiohttp.ClientSession
    base: str
    admin: Admin | None = None  # where it is in this process

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """The status, and the JSON or the text."""
        async with self.http.get(self.base + path, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    @asynccontextmanager
    async def stream(self, query: str = "", **headers: str) -> AsyncGenerator[Listening]:
        async with self.http.get(f"{self.base}/api/v1/stream{query}", headers=headers) as response:
            assert response.status == 200
            yield Listening(response)


@dataclass
class Listening:
    """An open stream."""

    response: aiohttp.ClientResponse

    async def next(self, *kinds: str) -> dict[str, Any]:
        """The next message, of one of these kinds; its kind is in ``event``, its place in ``place``."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                fields: dict[str, str] = {}
                while line := (await self.response.content.readline()).decode().rstrip("\n"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                assert fields, "the stream has ended"
                if "event" in fields and (not kinds or fields["event"] in kinds):
                    return {**json.loads(fields["data"]), "event": fields["event"], "place": fields.get("id")}


@asynccontextmanager
async def serving(
    listen: Address, vms: Sequence[VmState], run: Run, *, token_file: str | None = None, hosts: Sequence[str] = ()
) -> AsyncGenerator[Admin]:
    """Serve the admin interface of some VMs."""
    admin = Admin(listen, lambda: vms, run, token_file=token_file, hosts=hosts)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(admin.run())
        await admin.opened.wait()
        try:
            yield admin
        finally:
            task.cancel()


@asynccontextmanager
async def visiting(folder: Path, guard: Guard) -> AsyncGenerator[AdminClient]:
    """Visit a guard's admin interface by a unix socket."""
    path = folder / "admin.sock"
    connector = aiohttp.UnixConnector(str(path), limit=0)
    hub = guard.vm
    async with (
        serving(UnixAddress(str(path)), [hub], hub.journal.run) as admin,
        aiohttp.ClientSession(connector=connector) as http,
    ):
        yield AdminClient(http, "http://localhost", admin)


@asynccontextmanager
async def visiting_by_tcp(
    folder: Path, *guards: Guard, hosts: Sequence[str] = (), port: int | None = None
) -> AsyncGenerator[AdminClient]:
    """Visit by TCP, where a token is needed."""
    (folder / "token").write_text(TOKEN + "\n")
    hubs = [guard.vm for guard in guards]
    port = port or free_port()
    address = TcpAddress("127.0.0.1", port)
    async with (
        serving(address, hubs, hubs[0].journal.run, token_file=str(folder / "token"), hosts=hosts) as admin,
        aiohttp.ClientSession() as http,
    ):
        yield AdminClient(http, f"http://127.0.0.1:{port}", admin)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
