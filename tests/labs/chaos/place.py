"""Where a fault is made: a folder, fakes in this process, guards in their own, and clients."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client
from tests.support.process import Process, guard_process, vm_table

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from typing import IO

    from qmpguard.simulator.conversation import QmpConversation

#: seconds for a client to be served, on a machine that does other work as well
SERVED = 20.0
#: seconds to wait for something that the guard has promised to do at once or never
SOON = 10.0


class Broken(Exception):  # noqa: N818 -- a promise is
    """A promise that was not kept; the text is what was seen."""


def broken(seen: str) -> NoReturn:
    """Say that a promise was not kept."""
    raise Broken(seen)


class Odd(FakeQemu):
    """A fake QEMU whose connections can be taken over by ``begin``."""

    begin: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None

    async def serve(self, conversation: QmpConversation) -> None:
        if self.begin is None:
            await super().serve(conversation)
            return
        with suppress(ConnectionError):
            await self.begin(conversation.reader, conversation.writer)


class Place:
    """One fault's own folder, with all that runs in it until the fault is over."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack

    async def qemu(self, name: str = "a") -> Odd:
        """Start a fake at NAME.qemu."""
        return await self._stack.enter_async_context(Odd(self.folder / f"{name}.qemu"))

    def config(self, names: str = "a", extra: str = "", **more: str) -> Path:
        """Write the config of some VMs, at once and whole, and return its path."""
        tables = "".join(vm_table(self.folder, name, **more) for name in names)
        return self.write(extra + tables)

    def write(self, text: str) -> Path:
        path, new = self.folder / "guard.toml", self.folder / "guard.new"
        new.write_text(text)
        new.rename(path)
        return path

    async def guard(
        self,
        *arguments: str,
        limits: dict[int, int] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Run a guard of the config, or of ``arguments``."""
        words = arguments or ("run", "--config", str(self.folder / "guard.toml"))
        context = guard_process(self.folder, *words, limits=limits, stderr=stderr, pass_fds=pass_fds)
        return await self._stack.enter_async_context(context)

    async def program(self, *words: str) -> Process:
        """Run a program that becomes a guard."""
        log = self.folder / "guard.log"
        log.touch()
        process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL)
        guard = Process(process, log)
        self._stack.push_async_callback(guard.end)
        return guard

    def at(self, name: str = "a") -> Path:
        """Return where clients come in."""
        return self.folder / f"{name}.sock"

    async def client(self, name: str = "a") -> Client:
        """Connect and negotiate, as soon as that can be; raises `Broken`."""
        try:
            async with asyncio.timeout(SERVED):
                return await self._negotiated(self.at(name))
        except TimeoutError:
            broken(f"no client of {name} is served within {SERVED:g} s")

    async def _negotiated(self, path: Path) -> Client:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_unix_connection(path, limit=1 << 26)
                client = Client(reader, writer)
                self._stack.callback(writer.close)
                if await client.receive() and "return" in (await ask(client, "qmp_capabilities")):
                    return client
            await asyncio.sleep(0.05)

    async def served(self, name: str = "a") -> float:
        """Return after how many seconds a new client has had a reply; raises `Broken`."""
        begun = monotonic()
        client = await self.client(name)
        await answered(client)
        client.writer.close()
        return monotonic() - begun

    def lazy(self, name: str = "a") -> socket.socket:
        """Return a connection that says and reads nothing, until the fault is over."""
        sock = socket.socket(socket.AF_UNIX)
        self._stack.callback(sock.close)
        sock.connect(str(self.at(name)))
        return sock


async def ask(client: Client, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the reply to a request; empty where the connection ends."""
    client.send({"execute": command} if arguments is None else {"execute": command, "arguments": arguments})
    while line := await client.reader.readline():
        if b'"event"' not in line[:80]:
            reply = json.loads(line)
            assert isinstance(reply, dict)
            return reply
    return {}


async def answered(client: Client, seconds: float = SERVED) -> float:
    """Return after how many seconds a client has its reply; raises `Broken` where it has none."""
    begun = monotonic()
    try:
        async with asyncio.timeout(seconds):
            reply = await ask(client, "query-status")
    except (TimeoutError, ConnectionError) as error:
        broken(f"a client waits for its reply: {error!r}")
    if "return" not in reply:
        broken(f"a client was told {reply or 'that the connection ends'}")
    return monotonic() - begun


async def within(condition: Callable[[], bool], seconds: float = SOON) -> bool:
    """Return whether a condition comes true in time."""
    end = monotonic() + seconds
    while not condition():
        if monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True


async def told(client: Client, seconds: float) -> list[bytes]:
    """Return what a client is told within so many seconds, without events; b"" stands for the end."""
    lines: list[bytes] = []
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while not lines or lines[-1]:
                line = await client.reader.readline()
                lines += [] if b'"event"' in line[:80] else [line]
    return lines


@asynccontextmanager
async def placed(folder: Path) -> AsyncGenerator[Place]:
    """Give a fault its place, and end all that it has started."""
    async with AsyncExitStack() as stack:
        yield Place(folder, stack)


def alive(guard: Process) -> None:
    """Raise `Broken` if a guard has ended."""
    if not guard.alive:
        last = guard.text.strip().splitlines()[-1:]
        broken(f"the guard ended with {guard.process.returncode}: {last}")
