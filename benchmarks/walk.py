"""Follow one request through the guard: calls, files, and moves between files.

`python -m benchmarks.walk` prints the sequence and the numbers for a `query-status`, and with `refusal` for a refused
`migrate-set-capabilities`. The guard stands in front of the tests' fake QEMU, in this process. Only functions of
`qmpguard/` are counted. A *move* is a call into another file than that of the call before it; with returns, each
return into another file is counted too. Nothing is timed: the numbers are the same on every machine.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import qmpguard
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, capabilities, connected, eventually

PACKAGE = f"{Path(qmpguard.__file__).parent}/"
#: what stands for QEMU
QEMU = f"{PACKAGE}simulator/"
#: queries before the one that is followed: the first reply of a link starts the reading of QEMU's schema
BEFORE = 3


class Step(NamedTuple):
    """One call or one return within the package, and the depth of the function among the package's own."""

    file: str
    function: str
    depth: int
    is_call: bool


class Walk:
    """The steps of one request."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._depth = 0

    @property
    def calls(self) -> list[Step]:
        """The calls, in order."""
        return [step for step in self.steps if step.is_call]

    @property
    def files(self) -> list[str]:
        """The files that took part, in the order in which they came in."""
        return list(dict.fromkeys(step.file for step in self.steps))

    @property
    def moves(self) -> int:
        """The number of calls into another file than that of the call before."""
        return _changes(self.calls)

    @property
    def moves_with_returns(self) -> int:
        """The number of calls and returns after which another file executes than before."""
        return _changes(self.steps)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record every call and return of this thread within the package."""
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        path = frame.f_code.co_filename
        if not path.startswith(PACKAGE) or _is_of_qemu(frame):
            return
        function = frame.f_code.co_qualname
        if event == "call":
            self.steps.append(Step(path.removeprefix(PACKAGE), function, self._depth, True))
            self._depth += 1
        elif event == "return":
            self._depth = max(0, self._depth - 1)
            if (caller := _caller(frame)) is not None:
                self.steps.append(Step(*caller, self._depth, False))


def _is_of_qemu(frame: FrameType | None) -> bool:
    """Say whether the simulated QEMU runs, which reads and writes with the same functions as the guard."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(QEMU):
            return True
        frame = frame.f_back
    return False


def _changes(steps: list[Step]) -> int:
    return sum(before.file != after.file for before, after in pairwise(steps))


def _caller(frame: FrameType) -> tuple[str, str] | None:
    """Return file and function of the nearest caller within the package; None if the event loop called."""
    back = frame.f_back
    while back is not None and not back.f_code.co_filename.startswith(PACKAGE):
        back = back.f_back
    return None if back is None else (back.f_code.co_filename.removeprefix(PACKAGE), back.f_code.co_qualname)


async def follow(client: Client, command: str, arguments: dict[str, Any] | None) -> Walk:
    """Return the walk of a request that the client has sent several times before."""
    for _ in range(BEFORE):
        await client.ask(command, arguments)
    walk = Walk()
    with walk.recorded():
        await client.ask(command, arguments)
    return walk


async def walked(command: str = "query-status", arguments: dict[str, Any] | None = None) -> Walk:
    """Return the walk of a request through a guard in front of the fake QEMU, which has a VFIO device."""
    with tempfile.TemporaryDirectory() as folder:
        listen = Path(folder) / "guard.sock"
        async with (
            FakeQemu(Path(folder) / "qemu.sock") as qemu,
            qmpguard.guarding(str(qemu.path), str(listen)),
            connected(listen) as client,
        ):
            qemu.devices["gpu0"] = "vfio-pci"
            await client.ask("query-status")
            await eventually(lambda: "query-qmp-schema" in [request.get("execute") for request in qemu.seen])
            return await follow(client, command, arguments)


def report(walk: Walk) -> Iterator[str]:
    """Yield the lines of a report: each call, indented by its depth, with its file where that changes."""
    shown = ""
    for step in walk.calls:
        yield f"{step.file if step.file != shown else '':38}{'  ' * step.depth}{step.function}"
        shown = step.file
    yield f"{len(walk.calls)} calls, {len(walk.files)} files, {walk.moves} moves between files"
    yield f"({walk.moves_with_returns} moves with returns)"


def main() -> None:
    """Print the walk."""
    logging.disable()
    requests = {(): ("query-status", None), ("refusal",): ("migrate-set-capabilities", capabilities(postcopy_ram=True))}
    request = requests.get(tuple(sys.argv[1:]))
    if request is None:
        sys.exit("usage: python -m benchmarks.walk [refusal]")
    print(*report(asyncio.run(walked(*request))), sep="\n")


if __name__ == "__main__":
    main()
