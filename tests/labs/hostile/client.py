"""One hostile client: a conversation that its seed decides, held against what QEMU would do."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from enum import Enum
from random import Random
from typing import TYPE_CHECKING

from tests.labs.hostile.account import Account, Fault
from tests.labs.hostile.commands import ANEW, IN_BAND, JUNK, LIKE_JUNK, OUT_OF_BAND, execute, quoted
from tests.labs.hostile.ids import Id, any_id, text
from tests.labs.hostile.wire import Wire, dial

if TYPE_CHECKING:
    from pathlib import Path

#: seconds for any reply: others keep the guard and QEMU busy, and the machine has other work
TIMEOUT = 60.0
#: seconds that a client goes on sending which does not read
UNREAD = 0.5
#: the pause before a client leaves, where that is to happen while its requests are under way, in seconds
MOMENT = 0.05
#: steps of a conversation; requests of one step
STEPS, BATCH = 6, 8
#: descriptors that Linux lets one message carry (SCM_MAX_FD)
MAX_FDS = 253


class Ending(Enum):
    """How a client leaves."""

    SETTLED = "when all is answered"
    HALF_CLOSED = "by closing its sending half at once, and reading on"
    ABRUPT = "at once"
    MOMENT = "a moment later, whatever is under way"
    IN_A_MESSAGE = "in the middle of a message"
    UNREAD = "having read nothing"
    UNGREETED = "before the greeting"
    SILENT = "without a word, after the greeting"


#: how often
_WEIGHTS = {Ending.SETTLED: 8, Ending.HALF_CLOSED: 4}


class Hostile:
    """A client; ``seed`` decides all that it does. ``story`` is what it did, for whoever has to find a fault."""

    def __init__(self, seed: str, path: Path) -> None:
        self._random = Random(seed)
        self._path = path
        self._account = Account()
        self._serial = 0
        self._oob = self._random.random() < 0.5
        self.ending = self._random.choices(list(Ending), [_WEIGHTS.get(e, 1) for e in Ending])[0]
        self.story: deque[str] = deque(maxlen=12)
        self._spoken = False  # all but the last request, whose reply is the end
        self._wire: Wire

    def __str__(self) -> str:
        return f"it left {self.ending.value}, after: {'; '.join(self.story)}"

    @property
    def replies(self) -> int:
        return self._account.replies

    async def run(self) -> None:
        """Converse and leave; raises `Fault` or `TimeoutError`."""
        async with asyncio.timeout(TIMEOUT):
            self._wire = await dial(self._path)
        try:
            await self._converse()
        finally:
            self._wire.close()

    async def _converse(self) -> None:
        if self.ending is Ending.UNGREETED:
            return
        if self.ending is Ending.UNREAD:
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(UNREAD):
                    await self._speak()
            return
        async with asyncio.timeout(TIMEOUT):
            greeting = await self._wire.lines()
        if not greeting or not greeting[0].startswith(b'{"QMP"'):
            raise Fault(f"no greeting: {greeting[:1]}")
        if self.ending is not Ending.SILENT:
            await self._talk()

    async def _talk(self) -> None:
        """Speak and listen at once, and leave as it is meant to."""
        patient = self.ending in (Ending.SETTLED, Ending.HALF_CLOSED)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self._listen(patient=patient))
            try:
                async with asyncio.timeout(TIMEOUT):
                    await self._speak()
                await self._leave()
            except ConnectionError as error:
                if patient:
                    raise Fault(f"closed by the guard: {error!r}") from error
            if not patient:
                listening.cancel()

    async def _listen(self, *, patient: bool) -> None:
        while True:
            async with asyncio.timeout(TIMEOUT):
                try:
                    lines = await self._wire.lines()
                except ConnectionError:
                    lines = []
            for line in lines:
                self._account.take(line)
            if not lines:
                break
            if self.ending is Ending.SETTLED and self._spoken and not self._account.owes:
                return
        if patient and self._account.owes:
            raise Fault(f"closed with {self._account.owes} unanswered, first {next(iter(self._account)).what}")
        if self.ending is Ending.SETTLED:
            raise Fault("closed before it left")

    async def _leave(self) -> None:
        """Do what `ending` says; who settles sends one request more, whose reply is the last."""
        match self.ending:
            case Ending.SETTLED:
                self._spoken = True
                await self._request("the last", execute("query-status"), text("the last"))
            case Ending.HALF_CLOSED:
                self._wire.end()
            case Ending.MOMENT:
                await asyncio.sleep(self._random.random() * MOMENT)
            case Ending.IN_A_MESSAGE:
                await self._wire.send(b'{"execute": "query-status", "id": "' + b"x" * self._random.randrange(9000))
            case _:
                pass

    async def _speak(self) -> None:
        await self._negotiate()
        for _ in range(self._random.randrange(1, STEPS)):
            kinds = (self._batch, self._batch, self._junk, self._flood, self._descriptors, self._in_pieces)
            await self._random.choices(kinds, (6, 6, 3, 1, 2, 2))[0]()

    async def _negotiate(self) -> None:
        if self._random.random() < 0.1:
            self._oob = False
            self.story.append("does not negotiate")
            return
        enable = ["oob"] if self._oob else []
        request = execute("qmp_capabilities", quoted({"enable": enable}))
        await self._request("qmp_capabilities", request, text("negotiation"))

    async def _request(self, what: str, request: bytes, identity: Id, *, oob: bool = False) -> None:
        self._account.owe(what, identity, oob=oob)
        await self._wire.send(self._whole(request, identity))

    def _whole(self, request: bytes, identity: Id) -> bytes:
        end = b"}" + self._random.choice((b"", b"\n", b"\r\n", b" "))
        return request + (b"" if identity.raw is None else b', "id": ' + identity.raw) + end

    def _any(self) -> tuple[str, bytes, Id, bool]:
        """Return a request's name, the request, its id, and whether it is out-of-band."""
        self._serial += 1
        oob = self._oob and self._random.random() < 0.2
        table = OUT_OF_BAND if oob else IN_BAND
        name = self._random.choice(tuple(table))
        shape, identity = any_id(self._random, self._serial)
        if oob or name in LIKE_JUNK:  # these are told from others by their id alone
            shape, identity = "string", text(f"one{self._serial}")
        self.story.append(f"{name}, id {shape}")
        return name, table[name](self._random), identity, oob

    async def _batch(self) -> None:
        data = []
        for _ in range(self._random.randrange(1, BATCH)):
            name, request, identity, oob = self._any()
            self._account.owe(name, identity, oob=oob)
            data.append(self._whole(request, identity))
        await self._wire.send(b"".join(data))

    async def _in_pieces(self) -> None:
        name, request, identity, oob = self._any()
        self._account.owe(name, identity, oob=oob)
        data = self._whole(request, identity)
        cut = self._random.randrange(len(data))
        await self._wire.send(data[:cut])
        await asyncio.sleep(self._random.random() * MOMENT)
        await self._wire.send(data[cut:])

    async def _junk(self) -> None:
        junk = self._random.choice(JUNK) * self._random.choice((1, 2, 30))
        self.story.append(f"junk {junk[:20]!r}, {len(junk)} bytes")
        self._account.junk += len(junk) + 1
        await self._wire.send(junk + ANEW)

    async def _flood(self) -> None:
        unit = self._random.choice((b"{}", b"x ", b"[]", b"\0", b"]", b"1 "))
        self.story.append(f"flood of {unit!r}")
        self._account.junk += (64 << 10) + 1
        await self._wire.send((unit * (64 << 10))[: 64 << 10] + ANEW)

    async def _descriptors(self) -> None:
        """Send descriptors with, before, or behind a request that takes one, many, or with one that takes none."""
        self._serial += 1
        way = self._random.choice(("with", "before", "behind", "many", "wrong", "junk"))
        self.story.append(f"descriptors, {way}")
        identity = text(f"fd{self._serial}")
        request = execute("getfd", quoted({"fdname": f"n{self._random.randrange(3)}"}))
        whole = self._whole(execute("query-name") if way == "wrong" else request, identity)
        if way in ("before", "junk"):
            self._account.junk += way == "junk"
            await self._wire.send_with(b" " if way == "before" else ANEW, 1)
        self._account.owe("getfd", identity)
        if way in ("with", "many", "wrong"):
            await self._wire.send_with(whole, MAX_FDS if way == "many" else 1)
        else:
            await self._wire.send(whole)
        if way == "behind":
            await self._wire.send_with(b" ", 1)
