"""One client of the soak: it does at random what clients do, and accounts for every reply."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
from collections import Counter, deque
from contextlib import suppress
from time import gmtime, strftime
from typing import TYPE_CHECKING, Any

from tests.labs.hostile.commands import ANEW, FORGERY, JUNK, LINES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: seconds without a reply after which it counts as lost; a restart of QEMU takes a few
TIMEOUT = 90.0

Request = dict[str, Any]


def capability(name: str, *, state: bool) -> Request:
    return {
        "execute": "migrate-set-capabilities",
        "arguments": {"capabilities": [{"capability": name, "state": state}]},
    }


def monitor() -> Request:
    return {"execute": "object-add", "arguments": {"qom-type": "monitor-qmp", "id": "m", "chardev": "c"}}


REQUESTS: tuple[Callable[[], Request], ...] = (
    lambda: {"execute": "query-status"},
    lambda: {"execute": "query-name"},
    lambda: {"execute": "query-chardev"},
    lambda: {"execute": "qom-list", "arguments": {"path": "/machine"}},
    lambda: {"execute": "human-monitor-command", "arguments": {"command-line": "info status"}},
    lambda: {"execute": "nonsense"},
    lambda: {"execute": "query-status", "unexpected": 1},
    lambda: {"execute": "qom-list", "arguments": {"path": "x" * int(10 ** (random.random() * 5.3))}},
    lambda: {"execute": random.choice(("stop", "cont"))},
    lambda: {"execute": "getfd", "arguments": {"fdname": "nothing"}},
    lambda: capability("postcopy-ram", state=random.random() < 0.5),
    lambda: capability("xbzrle", state=False),
    lambda: {"execute": "device_add", "arguments": {"driver": "e1000e", "id": "e"}},
    lambda: {"execute": "migrate", "arguments": {"uri": "exec:cat >/dev/null"}},
    lambda: {"execute": "migrate_cancel"},
    monitor,
    lambda: {"execute": "human-monitor-command", "arguments": {"command-line": random.choice(LINES)}},
    lambda: {"execute": FORGERY},
    lambda: {"execute": "query-qmp-schema"},
)
#: ids of all shapes that Python's own JSON reads, each with a string that no other has
IDS: tuple[Callable[[str], Any], ...] = (
    *(str for _ in range(10)),
    lambda text: [text, None, True, {}],
    lambda text: {"a": {"b": text}, "c": []},
    lambda text: text + "\0\x1b[2J\r\n\U0001f600",
    lambda text: text + "x" * 100_000,
)
#: how often; the schema is a quarter of a megabyte
WEIGHTS = (*(10 for _ in REQUESTS[:-1]), 1)


#: of these, what the guard judges and keeps on record
JUDGED: tuple[Callable[[], Request], ...] = (
    lambda: capability("postcopy-ram", state=True),
    lambda: {"execute": "migrate", "arguments": {"uri": "exec:cat >/dev/null"}},
    lambda: {"execute": "device_add", "arguments": {"driver": "e1000e", "id": "e"}},
    monitor,
)


def clock() -> str:
    """Return the time as the guard's log writes it."""
    return strftime("%H:%M:%S", gmtime())


class Fault(Exception):  # noqa: N818 -- what must not happen
    """A reply that is missing, out of place, or one too many."""


class Tally:
    """What all clients have seen."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []


class Chatter:
    """One conversation after the other, until the time is up."""

    def __init__(self, path: Path, number: int, tally: Tally, disturbed: Callable[[float], bool]) -> None:
        self._path = path
        self._number = number
        self._tally = tally
        self._disturbed = disturbed  # was there no QEMU, at some time since then?
        self._serial = 0

    async def run(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            begun = loop.time()
            try:
                await self._converse(end)
            except (Fault, TimeoutError) as error:
                self._tally.faults.append(f"client {self._number} at {clock()}: {error!r}")
            except (OSError, asyncio.IncompleteReadError) as error:
                self._tally.counts["cut off by a restart of QEMU"] += 1
                await asyncio.sleep(0.1)
                if not self._disturbed(begun):
                    self._tally.faults.append(f"client {self._number} was cut off at {clock()}: {error!r}")

    async def _converse(self, end: float) -> None:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=1 << 26)
        self._tally.counts["conversations"] += 1
        try:
            oob = random.random() < 0.5
            await self._expect(reader, lambda message: "QMP" in message)
            writer.write(json.dumps({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"] * oob}}).encode())
            await self._expect(reader, lambda message: message == {"return": {}})
            for _ in range(random.randrange(30)):
                if asyncio.get_running_loop().time() > end or not await self._batch(reader, writer, oob=oob):
                    return
                await asyncio.sleep(random.random() * 0.2)
            await self._say_goodbye(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _batch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, oob: bool) -> bool:
        """Send some requests and take their replies; False if the client has left in their middle."""
        sent: deque[Any] = deque()
        apart: set[str] = set()
        for _ in range(random.randrange(1, 12)):
            request = random.choices(REQUESTS, WEIGHTS)[0]()
            urgent = oob and random.random() < 0.2
            if urgent:
                request = {"exec-oob": "query-yank"}
            self._serial += 1
            identity: Any = f"{self._number}-{self._serial}"
            if urgent:
                apart.add(identity)
            else:
                sent.append(identity := random.choice(IDS)(identity))
            writer.write(json.dumps({**request, "id": identity}).encode())
            self._tally.counts["requests"] += 1
        if random.random() < 0.03:
            self._tally.counts["left in the middle"] += 1
            self._tally.counts["replies given up"] += len(sent) + len(apart)
            if random.random() < 0.5:
                writer.write(b'{"execute": "query-st')
            writer.transport.abort()
            return False
        await self._replies(reader, sent, apart)
        if random.random() < 0.1:
            await self._junk(reader, writer)
        if random.random() < 0.2:
            await self._pass_descriptor(reader, writer)
        return True

    async def _replies(self, reader: asyncio.StreamReader, sent: deque[Any], apart: set[str]) -> None:
        while sent or apart:
            message = await self._message(reader)
            if "event" in message:
                self._tally.counts["events"] += 1
                continue
            identity = message.get("id")
            self._tally.counts["errors" if "error" in message else "successes"] += 1
            if "qmpguard" in str(message.get("error", "")):
                self._tally.counts["refusals"] += 1
            if isinstance(identity, str) and identity in apart:
                apart.discard(identity)
            elif sent and identity == sent[0]:
                sent.popleft()
            else:
                raise Fault(f"a reply to {identity}, where {sent and sent[0]} was to come: {str(message)[:200]}")

    async def _junk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send what is no request; a request behind it is answered all the same."""
        junk = random.choice(JUNK) * random.randrange(1, 30) + ANEW
        writer.write(junk + b'{"execute": "query-status", "id": "behind"}')
        self._tally.counts["junk"] += 1
        while (message := await self._message(reader)).get("id") != "behind":
            if "event" not in message and ("error" not in message or "id" in message):
                raise Fault(f"junk was answered {str(message)[:200]}")

    async def _pass_descriptor(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = f"n{self._number}"
        request = json.dumps({"execute": "getfd", "arguments": {"fdname": name}, "id": name}).encode()
        await writer.drain()
        number = os.open(os.devnull, os.O_RDONLY)
        try:
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as sock:
                socket.send_fds(sock, [request], [number])
        except BlockingIOError:
            return
        finally:
            os.close(number)
        self._tally.counts["requests"] += 2
        writer.write(json.dumps({"execute": "closefd", "arguments": {"fdname": name}, "id": "closed"}).encode())
        await self._replies(reader, deque([name, "closed"]), set())
        self._tally.counts["descriptors"] += 1

    async def _say_goodbye(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send a last few requests and the end: all are answered, then the other side closes."""
        sent: deque[Any] = deque()
        for i in range(random.randrange(1, 6)):
            writer.write(json.dumps({"execute": "query-status", "id": f"last-{i}"}).encode())
            self._tally.counts["requests"] += 1
            sent.append(f"last-{i}")
        writer.write_eof()
        await self._replies(reader, sent, set())
        async with asyncio.timeout(TIMEOUT):
            while line := await reader.readline():
                if b'"event"' not in line:
                    raise Fault(f"a message after the last reply: {line[:200]!r}")
        self._tally.counts["half-closes"] += 1

    async def _expect(self, reader: asyncio.StreamReader, fits: Callable[[Request], bool]) -> None:
        message = await self._message(reader)
        if not fits(message):
            raise Fault(f"unexpected: {str(message)[:200]}")

    async def _message(self, reader: asyncio.StreamReader) -> Request:
        async with asyncio.timeout(TIMEOUT):
            line = await reader.readline()
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        message = json.loads(line)
        assert isinstance(message, dict)
        return message
