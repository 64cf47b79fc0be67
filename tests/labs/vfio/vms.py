"""A VM of the lab as rows use it: a client behind a guard, and a second monitor that no guard sees."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.labs.vfio.machine import LabQemu
from tests.labs.vfio.rows import Broken, Place, broken
from tests.support.guarding import Client, connected, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from qmpguard.daemon.guard import GuardedVm

#: seconds for a migration in the lab to get somewhere; it takes 1 to 20
MIGRATION = 120.0
#: seconds for the guard to learn what it needs of a QEMU in the lab
SURVEY = 60.0
#: seconds between two looks at a migration
LOOK = 0.2
#: states in which a migration stays
ENDED = ("completed", "failed", "cancelled", "postcopy-paused", "QEMU ended")


@dataclass(frozen=True, slots=True)
class Vm:
    """A running VM. ``behind`` sees QEMU itself, and what it is asked there no guard judges."""

    qmp: Client
    behind: Client
    qemu: LabQemu
    guard: GuardedVm

    async def ok(self, command: str, **arguments: Any) -> Any:
        """Return what the guarded client gets; raises `Broken` when that is an error."""
        reply = await self.qmp.ask(command, arguments or None)
        return reply["return"] if "return" in reply else broken(f"{command} {arguments}: {reply}")

    async def error(self, command: str, **arguments: Any) -> str:
        """Return the error that the guarded client gets; raises `Broken` when it gets none."""
        reply = await self.qmp.ask(command, arguments or None)
        return str(reply["error"]["desc"]) if "error" in reply else broken(f"{command} {arguments} passes: {reply}")

    async def line(self, line: str) -> str:
        """Return what QEMU says to a line of HMP on the monitor that no guard sees."""
        reply = await self.behind.ask("human-monitor-command", {"command-line": line})
        return str(reply["return"]).strip()

    async def capability(self, name: str, *, on: bool = True) -> None:
        """Switch a capability behind the guard's back; raises `Broken` when QEMU does not."""
        states = [{"capability": name, "state": on}]
        if "error" in (reply := await self.behind.ask("migrate-set-capabilities", {"capabilities": states})):
            broken(f"{name}: {reply}")

    async def migration(self) -> dict[str, Any]:
        """Return what QEMU tells of its migration."""
        try:
            return dict((await self.behind.ask("query-migrate"))["return"])
        except (TypeError, ConnectionError):  # the monitor is closed
            return {"status": "QEMU ended"}

    async def ended(self, *states: str) -> dict[str, Any]:
        """Wait until a migration is in one of some states, or has ended, and return it; raises `Broken`."""
        try:
            async with asyncio.timeout(MIGRATION):
                while (seen := await self.migration()).get("status") not in (*states, *ENDED):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise Broken(f"the migration does not end: {await self.migration()}") from None
        return seen


def on(*names: str, state: bool = True) -> dict[str, Any]:
    """Return the arguments that switch capabilities on, or off."""
    return {"capabilities": [{"capability": name, "state": state} for name in names]}


def device(arguments: dict[str, Any]) -> list[str]:
    """Return the words of a command line for a device."""
    return ["-device", json.dumps(arguments)]


def named(error: str, rule: str, *names: str) -> str:
    """Return a refusal if it is by a rule and says some names; raises `Broken` otherwise."""
    if f"qmpguard: rule {rule}" not in error or not all(name in error for name in names):
        broken(f"{rule}, {names}: {error}")
    return error


@asynccontextmanager
async def started(
    place: Place, words: Sequence[str] = (), *, machine: str = "pc", memory: str = "64", watch: float = 0.0
) -> AsyncGenerator[Vm]:
    """Start a VM behind a guard; ``watch``: seconds between the guard's own looks at it."""
    folder = place.folder / str(place.lab.fresh())
    folder.mkdir()
    async with AsyncExitStack() as stack:
        qemu = LabQemu(place.lab, place.release, folder, words, monitors=2, machine=machine, memory=memory)
        await stack.enter_async_context(qemu)
        behind = await stack.enter_async_context(connected(qemu.monitors[1], early=True))
        guard = await stack.enter_async_context(guarding(qemu.monitors[0], survey_timeout=SURVEY, watch=watch))
        qmp = await stack.enter_async_context(connected(folder / "guard.sock"))
        yield Vm(qmp, behind, qemu, guard)
