"""`make conformance`: tries every client and every script on both QEMUs, prints what came of it, and writes it down."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from qmpguard.demo.lab import system_qemu, vfio_qemu
from tests.support.clients.machines import twins_with_a_device
from tests.support.clients.roster import CLIENTS, Client
from tests.support.clients.sameness import differing, refusals
from tests.support.conformance.differences import DIFFERENCES, unexplained
from tests.support.conformance.scripts import SCRIPTS
from tests.support.conformance.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCUMENT = Path(__file__).parents[3] / "docs" / "conformance.md"


@dataclass(frozen=True)
class Result:
    """What came of it before one QEMU: a cell for each client, and the scripts that differ."""

    version: str
    clients: Sequence[str]
    different: Sequence[str]

    @property
    def good(self) -> bool:
        return not self.different and all(cell.startswith("same") for cell in self.clients)


def main() -> int:
    """Return 1 if anything differed that is not listed."""
    logging.disable(logging.CRITICAL)
    results = [_result(find()) for find in (system_qemu, vfio_qemu)]
    DOCUMENT.write_text(page(results))
    print("\n".join([*_clients(results), "", *_scripts(results)]))
    return 0 if all(result.good for result in results) else 1


def refresh() -> None:
    """Write the list of differences anew, and leave the results; needs no QEMU."""
    results, _, _ = DOCUMENT.read_text().partition(_DIFFERENCES)
    DOCUMENT.write_text("\n".join([results + _DIFFERENCES, *differences()]) + "\n")


def page(results: Sequence[Result]) -> str:
    """The whole document."""
    return "\n".join([_HEAD, *_clients(results), _SCRIPTS, *_scripts(results), _DIFFERENCES, *differences()]) + "\n"


def differences() -> list[str]:
    """The table of what is known to differ."""
    rows = [f"| {each.what} | {each.why} |" for each in DIFFERENCES]
    return ["| what | why |", "|---|---|", *rows]


def _result(binary: Path) -> Result:
    with TemporaryDirectory(prefix="conformance") as folder, twins_with_a_device(binary, Path(folder)) as twins:
        clients = [_cell(client, twins) for client in CLIENTS]
    with TemporaryDirectory(prefix="conformance") as folder, Twins(binary, Path(folder)) as twins:
        different = [script.name for script in SCRIPTS if unexplained(*twins.play(script), twins.version)]
        return Result(".".join(map(str, twins.version)), clients, different)


def _cell(client: Client, twins: Twins) -> str:
    try:
        straight, guarded = client.talk(twins.straight), client.talk(twins.guarded)
    except Exception as error:  # noqa: BLE001 -- whatever stops a client is a result
        return f"**fails: {type(error).__name__}**"
    if different := len(differing(straight, guarded)):
        return f"**{different} of {len(straight)} differ**"
    return f"same, {len(straight)} messages" if refusals(guarded) == 1 else "**not refused**"


def _clients(results: Sequence[Result]) -> list[str]:
    rows = zip(CLIENTS, *(result.clients for result in results), strict=True)
    head = [f"QEMU {result.version}" for result in results]
    return [
        _row(["client", "how it is tried", *head]),
        _row(["---"] * (2 + len(head))),
        *(_row([client.name, client.how, *cells]) for client, *cells in rows),
    ]


def _scripts(results: Sequence[Result]) -> list[str]:
    return [
        f"QEMU {result.version}: {len(SCRIPTS)} scripts played, {len(result.different)} with an unlisted difference"
        + "".join(f"\n* {name}" for name in result.different)
        + "\n"
        for result in results
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_HEAD = """# Conformance

A client cannot tell the guard from QEMU, except by a refusal. Running QEMUs show it: a client talks to one QEMU
directly, and sends the same to the guard in front of another QEMU of the same kind. The replies must be the same.

<!-- written by `make conformance` from tests/labs/conformance/report.py -->

## Clients

Each client talks to a running machine with a device that counts as VFIO. It sends queries, sends a command that fails,
stops and continues the machine, passes descriptors if it can, and prepares a postcopy migration. That is refused, and
the client goes on. The comparison leaves out only the time of events and the numbers of threads and descriptors.

Programs and libraries run as they are. For a client in another language than Python, a script sends the client's bytes
in one write, with its spelling, ids, line ends and descriptors. It cuts the replies as the client does: at CR LF, in
lines of at most 64 KiB, or at a brace that ends a line.
"""

_SCRIPTS = """
## Scripts

Scripts of valid and invalid requests, compared byte for byte. Only the time of events and the order of members in
objects are made equal before. `make fuzz` plays generated scripts too, for a given number of minutes.
"""

_DIFFERENCES = """## Differences

This is the list of all known differences.
"""

if __name__ == "__main__":
    if sys.argv[1:] == ["--differences"]:
        refresh()
    else:
        sys.exit(main())
