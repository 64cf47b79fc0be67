"""`make chaos`: every fault on a guard in its own process; prints fault, promise, and what was seen.

Each fault once, or again and again for ``--minutes M``; names of faults choose some. The exit code is 1 if any
promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from tests.labs.chaos.place import Broken, placed
from tests.labs.chaos.rows import ROWS, Row

if TYPE_CHECKING:
    from collections.abc import Iterable

#: faults at once: mostly they wait
AT_ONCE = 6
#: seconds for one fault
TIMEOUT = 150.0


class Seen(NamedTuple):
    """What a fault led to."""

    row: Row
    kept: bool
    seen: str
    seconds: float


async def see(row: Row) -> Seen:
    """Make a fault in a folder of its own."""
    begun = monotonic()
    with TemporaryDirectory(prefix="chaos") as folder:
        try:
            async with asyncio.timeout(TIMEOUT), placed(Path(folder)) as place:
                kept, seen = True, await row.make(place)
        except Broken as error:
            kept, seen = False, str(error)
        except Exception as error:  # noqa: BLE001 -- whatever it was, it is told
            kept, seen = False, repr(error)
    return Seen(row, kept, seen, monotonic() - begun)


async def chaos(rows: Iterable[Row], *, say: bool = False) -> list[Seen]:
    """Make faults, some at once, and return what they led to."""
    left, seen = list(rows), []

    async def work() -> None:
        while left:
            seen.append(one := await see(left.pop(0)))
            if say:
                print(told(one), flush=True)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())
    return seen


def told(one: Seen) -> str:
    """Return a line of the table."""
    mark = "kept  " if one.kept else "BROKEN"
    return f"{mark} {one.seconds:5.1f} s | {one.row.name}: {one.row.fault} | {one.row.promise} | {one.seen}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.labs.chaos")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("names", nargs="*", help="some faults only")
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.names or row.name in options.names]
    end, broken = monotonic() + 60 * options.minutes, 0
    while True:
        broken += sum(not one.kept for one in asyncio.run(chaos(rows, say=True)))
        if monotonic() > end:
            break
        random.shuffle(rows)
    print(f"promises that were broken: {broken}")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
