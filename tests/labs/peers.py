"""Other people's clients at QEMU and at the guard, with the number of messages that each was told: `make peers`.

Exit code 1 where a client was told another thing by the guard, a refusal aside, or did not get over the refusal.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.demo.lab import LabUnavailable, system_qemu, version, vfio_qemu
from tests.support.clients.machines import twins_with_a_device
from tests.support.clients.roster import CLIENTS, Client
from tests.support.clients.sameness import differing, refusals

if TYPE_CHECKING:
    from tests.support.conformance.twins import Twins

#: suites and clients that cannot be run here, and why
NOT_HERE = (
    (
        "QEMU's python/qemu/machine and tests/functional",
        "in QEMU's source tree only: no package of PyPI or Debian has them",
    ),
    ("qemu.qmp's own test suite", "it tests its protocol class against itself, and talks to no QEMU"),
    ("avocado-vt, tp-qemu", "they need guest images; not tried"),
    ("libvirt", "`make libvirt-lab` runs it, directly and behind the guard"),
)


class Count(NamedTuple):
    """One client's run: what it was told by each, how many refusals are among it, and how many messages differ."""

    direct: int
    guarded: int
    refused: int
    different: int

    @property
    def is_well(self) -> bool:
        """Whether nothing differs but the one refusal, and the conversation went on after it."""
        return self.different == 0 and self.refused == 1


def count(client: Client, twins: Twins) -> Count | str:
    """Run a client at both; a text says what stopped it."""
    try:
        direct, guarded = client.talk(twins.straight), client.talk(twins.guarded)
    except Exception as error:  # noqa: BLE001 -- whatever stops a client is a result
        return f"fails: {type(error).__name__}: {error}"
    return Count(len(direct), len(guarded), refusals(guarded), len(differing(direct, guarded)))


def table(binary: Path) -> bool:
    """Print one table, and say whether all is well."""
    print(f"\n{version(binary)}\n{'client':34} {'direct':>7} {'guarded':>8} {'refused':>8} {'differ':>7}")
    with TemporaryDirectory(prefix="peers") as folder, twins_with_a_device(binary, Path(folder)) as twins:
        found = [(client, count(client, twins)) for client in CLIENTS]
    for client, one in found:
        cells = one if isinstance(one, str) else f"{one.direct:7} {one.guarded:8} {one.refused:8} {one.different:7}"
        print(f"{client.name:34} {cells}")
    return all(isinstance(one, Count) and one.is_well for _, one in found)


def main() -> int:
    """Run every client at each QEMU that is here."""
    logging.disable(logging.WARNING)  # of the guards in this process
    well = True
    for find in (system_qemu, vfio_qemu):
        try:
            well &= table(find())
        except LabUnavailable as error:
            print(f"left out: {error}")
    print("\nNot run here:")
    for name, why in NOT_HERE:
        print(f"  {name}: {why}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
