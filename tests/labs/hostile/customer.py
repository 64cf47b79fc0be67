"""A client of a VM whose QEMU is hostile: it asks again until QEMU is well, and takes nothing but its own replies."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.labs.hostile.account import Account, Fault
from tests.labs.hostile.commands import capability, execute, quoted
from tests.labs.hostile.ids import text
from tests.labs.hostile.pranks import TRAP
from tests.labs.hostile.wire import Wire, dial

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: seconds between two connections
AGAIN = 0.05
#: what it asks in one conversation: what passes, what is judged, and what a hostile QEMU answers in its own way
ASKS = (
    execute("query-status"),
    execute("migrate-set-capabilities", capability("xbzrle", state=True)),
    execute("migrate-set-capabilities", capability("postcopy-ram", state=True)),
    execute("migrate", quoted({"uri": "exec:cat"})),
    execute("migrate-set-capabilities", capability("x-ignore-shared", state=True)),
    execute("snapshot-save", quoted({"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]})),
    execute("chardev-add", quoted({"id": "c", "backend": {"type": "file", "data": {"out": "/x"}}})),
    execute(TRAP),
    execute("query-version"),
)


class Customer:
    """One client after the other, until one is served whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._serial = 0
        self.conversations = 0  # that were over with every request answered

    async def until_served(self, is_well: Callable[[], bool], alive: Callable[[], bool]) -> None:
        """Come again until a conversation is whole that began when QEMU was well; raises `Fault`."""
        while alive():
            well = is_well()
            if await self._whole():
                self.conversations += 1
                if well:
                    return
            await asyncio.sleep(AGAIN)

    async def _whole(self) -> bool:
        """Return whether every request was answered; if not, the guard has closed."""
        try:
            wire = await dial(self._path)
        except OSError:
            return False
        try:
            return await self._converse(wire)
        except ConnectionError:
            return False
        finally:
            wire.close()

    async def _converse(self, wire: Wire) -> bool:
        if not (greeting := await wire.lines()):
            return False
        if b'"QMP"' not in b"".join(greeting):
            raise Fault(f"greeted with {greeting[0][:200]!r}")
        account = Account()
        for request in (execute("qmp_capabilities"), *ASKS):
            self._serial += 1
            name = f"c{self._serial}"
            account.owe(f"{request[:60]!r}", text(name))
            await wire.send(request + b', "id": ' + quoted(name) + b"}")
        while account.owes:
            if not (lines := await wire.lines()):
                return False
            for message in _messages(lines):
                if b"foreign" in message[:200]:
                    raise Fault(f"was handed {message[:200]!r}")
                account.take(message)
        return True


def _messages(lines: list[bytes]) -> list[bytes]:
    """Return messages, of which a pretty one has many lines; each arrives whole."""
    messages: list[bytes] = []
    for line in lines:
        if messages and line[:1] in (b" ", b"}"):
            messages[-1] = messages[-1].rstrip() + b" " + line.strip()
        else:
            messages.append(line)
    return messages
