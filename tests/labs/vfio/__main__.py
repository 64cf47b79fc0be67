"""`make vfio-lab`: what is promised of real `vfio-pci` devices, tried on each QEMU, as a table.

Names of rows choose some. The exit code is 1 if any promise is broken, and 2 where the lab cannot be had; with
`--optional` it is 0 there.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import NamedTuple

from qmpguard.demo.lab import LabUnavailable
from tests.labs.vfio import blocks, failover, migrations, tables, truth
from tests.labs.vfio.devices import sound
from tests.labs.vfio.host import Lab, LabFailed, at_once, booted, prepared
from tests.labs.vfio.machine import Release
from tests.labs.vfio.rows import Broken, Place, Row
from tests.support import guarding

ROWS = (*tables.ROWS, *migrations.ROWS, *blocks.ROWS, *failover.ROWS, *truth.ROWS)

HERE = Path(__file__).parent
#: seconds for an answer in a lab whose QEMUs are emulated by an emulated machine
ANSWER = 90.0


class Seen(NamedTuple):
    """What became of a row on one QEMU."""

    row: Row
    release: Release
    kept: bool
    seen: str
    seconds: float

    def __str__(self) -> str:
        """Return a line of the table."""
        mark = "fact  " if self.kept and self.row.fact else "kept  " if self.kept else "BROKEN"
        return f"{mark} {self.release.value} {self.seconds:5.0f} s | {self.row.name} | {self.row.promise} | {self.seen}"


async def see(lab: Lab, row: Row, release: Release) -> Seen:
    """Try a row in a folder of its own. It is broken, too, if the guest's kernel complains meanwhile."""
    begun = monotonic()
    with TemporaryDirectory(prefix="vfio") as folder:
        try:
            async with asyncio.timeout(row.seconds):
                kept, seen = True, await row.attempt(Place(lab, release, Path(folder)))
                sound(await lab.run("dmesg -c"))
        except Exception as error:  # noqa: BLE001 -- whatever it was, it is told
            kept, seen = False, cause(error)
    return Seen(row, release, kept, seen, monotonic() - begun)


def cause(error: BaseException) -> str:
    """Return what went wrong first: a broken promise in its own words, anything else with the row's own line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Broken | LabFailed):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(HERE)] or frames
    return f"{error!r} at {Path(own[-1].filename).name}:{own[-1].lineno}: {own[-1].line}"


async def prove(rows: list[Row], releases: list[Release]) -> int:
    """Try rows on QEMUs, each QEMU in a lab of its own, and return how many promises were broken.

    The labs run at the same time where there is room for them. Raises LabUnavailable; and asyncio.CancelledError at
    SIGINT and SIGTERM, when the labs have ended.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if task := asyncio.current_task():
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    places = asyncio.Semaphore(at_once())
    await prepared()
    return sum(await asyncio.gather(*(prove_on(release, rows, places) for release in releases)))


async def prove_on(release: Release, rows: list[Row], places: asyncio.Semaphore) -> int:
    """Try rows on one QEMU, and return how many promises were broken."""
    count = 0
    async with places, booted() as lab:
        for row in rows:
            print(one := await see(lab, row, release), flush=True)
            count += not one.kept
    return count


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.labs.vfio")
    parser.add_argument("--qemu", choices=[release.value for release in Release], help="one QEMU only")
    parser.add_argument("--optional", action="store_true", help="exit code 0 where the lab cannot be had")
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"some rows only: {', '.join(r.name for r in ROWS)}")
    options = parser.parse_args()
    if unknown := set(options.names) - {row.name for row in ROWS}:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    rows = [row for row in ROWS if not options.names or row.name in options.names]
    releases = [release for release in Release if options.qemu in (None, release.value)]
    guarding.TIMEOUT = ANSWER
    logging.disable(logging.WARNING)  # the refusals that are asked for
    try:
        count = asyncio.run(prove(rows, releases))
    except LabUnavailable as error:
        print(f"vfio-lab: {error}", file=sys.stderr)
        return 0 if options.optional else 2
    except asyncio.CancelledError:
        print("vfio-lab: ended by a signal", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"promises that were broken: {count}")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
