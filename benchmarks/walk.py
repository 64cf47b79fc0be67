"""Follow one `query-status` through the guard: calls, files, and moves between files.

`python -m benchmarks.walk` prints the sequence and the numbers. The guard stands in front of the tests' fake QEMU, in
this process. Only functions of `qmpguard/` are counted. A *move* is a call into another file than that of the call
before it; with returns, each return into another file is counted too. Nothing is timed: the numbers are the same on
every machine.
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
from typing import NamedTuple

import qmpguard
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, connected, eventually

PACKAGE = f"{Path(qmpguard.__file__).parent}/"
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
        if not path.startswith(PACKAGE):
            return
        function = frame.f_code.co_qualname
        if event == "call":
            self.steps.append(Step(path.removeprefix(PACKAGE), function, self._depth, True))
            self._depth += 1
        elif event == "return":
            self._depth = max(0, self._depth - 1)
            if (caller := _caller(frame)) is not None:
                self.steps.append(Step(*caller, self._depth, False))


def _changes(steps: list[Step]) -> int:
    return sum(before.file != after.file for before, after in pairwise(steps))


def _caller(frame: FrameType) -> tuple[str, str] | None:
    """Return file and function of the nearest caller within the package; None if the event loop called."""
    back = frame.f_back
    while back is not None and not back.f_code.co_filename.startswith(PACKAGE):
        back = back.f_back
    return None if back is None else (back.f_code.co_filename.removeprefix(PACKAGE), back.f_code.co_qualname)


async def follow(client: Client) -> Walk:
    """Return the walk of one `query-status` of a client that has sent several before."""
    for _ in range(BEFORE):
        await client.ask("query-status")
    walk = Walk()
    with walk.recorded():
        await client.ask("query-status")
    return walk


async def walked() -> Walk:
    """Return the walk of one `query-status` through a guard in front of the fake QEMU."""
    with tempfile.TemporaryDirectory() as folder:
        listen = Path(folder) / "guard.sock"
        async with (
            FakeQemu(Path(folder) / "qemu.sock") as qemu,
            qmpguard.guarding(str(qemu.path), str(listen)),
            connected(listen) as client,
        ):
            await client.ask("query-status")
            await eventually(lambda: "query-qmp-schema" in [request.get("execute") for request in qemu.seen])
            return await follow(client)


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
    print(*report(asyncio.run(walked())), sep="\n")


if __name__ == "__main__":
    main()
