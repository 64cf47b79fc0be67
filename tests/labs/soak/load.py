"""The clients of a soak, in one process: `python -m tests.labs.soak.load FOLDER SEED VM...`.

They converse with one VM after the other at FOLDER/VM.sock, which faults may meet: being cut off is counted, and is no
fault. A reply out of its order is one, and so is a request without an answer. Others only listen to events.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tests.labs.hostile.commands import ANEW, JUNK
from tests.labs.soak import worker
from tests.labs.soak.plan import Kind
from tests.support.guarding import Client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

#: clients that converse, and clients that only listen
TALKERS, LISTENERS = 16, 24
#: seconds between two requests of a client, on average, and between two reports
PAUSE, REPORT = 0.15, 1.0
#: seconds without an answer after which it is a fault: faults of up to 25 s may follow one another at a VM
TIMEOUT = 150.0
#: connections of a storm
CROWD = 60
#: bytes of a big request, and requests of a client that never reads
BIG, UNREAD = 1 << 20, 70

Request = dict[str, Any]


def _capability(name: str, *, state: bool) -> Request:
    entries = [{"capability": name, "state": state}]
    return {"execute": "migrate-set-capabilities", "arguments": {"capabilities": entries}}


def _hmp(line: str) -> Request:
    return {"execute": "human-monitor-command", "arguments": {"command-line": line}}


#: what clients send: queries, migrations that pass and that are refused, hot-plug, HMP, run states
REQUESTS: tuple[Request, ...] = (
    {"execute": "query-status"},
    {"execute": "query-status"},
    {"execute": "query-migrate"},
    {"execute": "query-name"},
    {"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}},
    {"execute": "stop"},
    {"execute": "cont"},
    _hmp("info status"),
    _hmp("migrate_set_capability postcopy-ram on"),
    _capability("postcopy-ram", state=True),
    _capability("postcopy-ram", state=False),
    _capability("background-snapshot", state=True),
    _capability("background-snapshot", state=False),
    _capability("events", state=True),
    {"execute": "migrate", "arguments": {"uri": "exec:cat >/dev/null"}},
    {"execute": "migrate_cancel"},
    {"execute": "device_add", "arguments": {"driver": "e1000", "id": "nic1"}},
    {"execute": "device_del", "arguments": {"id": "nic1"}},
    {"execute": "closefd", "arguments": {"fdname": "soak"}},
    {"execute": "nonsense"},
)


class Load:
    """The clients, and what they have seen."""

    def __init__(self, folder: Path, seed: int, names: Sequence[str]) -> None:
        self._folder = folder
        self._random = Random(seed)
        self._names = names
        self._counts: Counter[str] = Counter()
        self._descriptor = os.open(os.devnull, os.O_RDONLY)  # what clients pass on

    async def run(self) -> None:
        """Work until standard input ends."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._talk()) for _ in range(TALKERS)]
            running += [tasks.create_task(self._listen()) for _ in range(LISTENERS)]
            running.append(tasks.create_task(self._report()))
            worker.tell({"ready": len(self._names)})
            async for name, vm, seconds in worker.orders():
                running.append(tasks.create_task(self._misbehave(name, vm, seconds)))
                running = [task for task in running if not task.done()]
            for task in running:
                task.cancel()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT)
            counts, self._counts = self._counts, Counter()
            worker.tell({"counts": counts})

    async def _talk(self) -> None:
        while True:
            vm = self._random.choice(self._names)
            try:
                async with self._connected(vm) as client:
                    for number in range(self._random.randrange(30)):
                        await self._ask(client, vm, number)
                        await asyncio.sleep(self._random.expovariate(1 / PAUSE))
            except (OSError, EOFError):
                self._counts["cut off"] += 1
                await asyncio.sleep(PAUSE)

    async def _ask(self, client: Client, vm: str, number: int) -> None:
        if self._random.random() < 0.05:
            request = {"execute": "getfd", "arguments": {"fdname": "soak"}, "id": number}
            client.with_descriptors(json.dumps(request).encode(), self._descriptor)
        else:
            client.send({**self._random.choice(REQUESTS), "id": number})
        reply = await self._reply(client, vm)
        if reply.get("id") != number:
            worker.tell({"fault": f"{vm} answered {str(reply)[:200]} to request {number}"})

    async def _reply(self, client: Client, vm: str) -> Request:
        try:
            async with asyncio.timeout(TIMEOUT):
                while "event" in (message := await _message(client)):
                    self._counts["events"] += 1
        except TimeoutError as error:
            worker.tell({"fault": f"a client of {vm} has no answer after {TIMEOUT:g} s"})
            raise EOFError from error
        self._counts["replies"] += 1
        self._counts["refusals"] += "qmpguard: rule" in str(message.get("error", ""))
        return message

    async def _listen(self) -> None:
        while True:
            try:
                async with self._connected(self._random.choice(self._names)) as client:
                    while True:
                        await _message(client)
                        self._counts["events"] += 1
            except (OSError, EOFError):
                await asyncio.sleep(1.0)

    @asynccontextmanager
    async def _connected(self, vm: str) -> AsyncGenerator[Client]:
        reader, writer = await asyncio.open_unix_connection(self._folder / f"{vm}.sock", limit=1 << 26)
        client = Client(reader, writer)
        self._counts["connections"] += 1
        try:
            await self._reply(client, vm)
            client.send({"execute": "qmp_capabilities"})
            await self._reply(client, vm)
            yield client
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _misbehave(self, name: str, vm: str, seconds: float) -> None:
        with suppress(OSError, EOFError):
            if name == Kind.CROWD.label:
                await asyncio.gather(*(self._touch(vm) for _ in range(CROWD)))
                return
            async with self._connected(vm) as client:
                await self._wrong(client, name, vm, seconds)

    async def _touch(self, vm: str) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_unix_connection(self._folder / f"{vm}.sock")
            writer.close()

    async def _wrong(self, client: Client, name: str, vm: str, seconds: float) -> None:
        match name:
            case Kind.DEAF.label:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                client.raw(b'{"execute": "query-qmp-schema"}' * UNREAD)
                await asyncio.sleep(seconds)
            case Kind.BYTES.label:
                for byte in b'{"execute": "query-status"}':
                    client.raw(bytes([byte]))
                    await asyncio.sleep(seconds / 25)
                await self._reply(client, vm)
            case Kind.JUNK.label:
                client.raw(self._random.choice(JUNK) * 20 + ANEW)
                await asyncio.sleep(PAUSE)
            case Kind.LEAVES.label:
                client.send(*REQUESTS)
                client.raw(b'{"execute": "migr')
                client.writer.transport.abort()
            case Kind.BIG.label:
                client.send({"execute": "qom-list", "arguments": {"path": "x" * BIG}})
                await self._reply(client, vm)
            case _:
                raise ValueError(f"no such fault of a client: {name}")


async def _message(client: Client) -> Request:
    line = await client.reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    assert isinstance(message, dict)
    return message


if __name__ == "__main__":
    worker.be_nice()
    with suppress(KeyboardInterrupt):
        asyncio.run(Load(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]).run())
