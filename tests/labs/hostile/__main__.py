"""`make hostile`: hostile QEMUs at a guard, every prank of theirs, then hostile clients, for ``--minutes M``.

``--seed S/17`` plays one client, as a fault names it. The exit code says whether anything went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from qmpguard.demo.lab import system_qemu
from tests.labs.hostile.client import Hostile
from tests.labs.hostile.pranks import CUTS, PRANKS
from tests.labs.hostile.pranksters import pranks
from tests.labs.hostile.world import POLICIES, Outcome, attack, world

#: seconds of one world, before the next one with another policy
ROUND = 30.0


async def play(seed: str, policy: str, binary: Path | None, seconds: float) -> Outcome:
    with TemporaryDirectory(prefix="hostile") as folder:
        async with world(Path(folder), policy, binary) as place:
            end = monotonic() + seconds
            return await attack(place, seed, lambda _: monotonic() > end)


async def play_pranks() -> int:
    """Play every prank of hostile QEMUs once; return 1 if anything went wrong."""
    with TemporaryDirectory(prefix="hostile") as folder:
        faults = await pranks(Path(folder), (*PRANKS, *CUTS))
    print("\n  FAULT ".join([f"{len(PRANKS) + len(CUTS)} pranks of QEMUs, {len(faults)} faults", *faults]), flush=True)
    return int(bool(faults))


async def replay(seed: str, policy: str, binary: Path | None) -> list[str]:
    """Play one client alone and print what the guard says."""
    with TemporaryDirectory(prefix="hostile") as folder:
        async with world(Path(folder), policy, binary) as place:
            client = Hostile(seed, place.path)
            try:
                await client.run()
            except* Exception as group:  # noqa: BLE001 -- whatever it was, it is told
                print(repr(group))
            print("\n".join([*client.story, place.guard.text[-3000:]]))
            return place.guard.faults()


def told(outcome: Outcome) -> str:
    """Return an outcome in words."""
    waits = " and ".join(f"{wait:.2f}" for wait in outcome.worst)
    counts = f"{outcome.clients} clients, {outcome.replies} replies, {len(outcome.faults)} faults"
    return "\n  FAULT ".join([f"{counts}; the bystanders waited {waits} s at most", *outcome.faults])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.labs.hostile")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed")
    parser.add_argument("--policy", choices=list(POLICIES))
    parser.add_argument("--real", action="store_true", help="a real QEMU, with --seed")
    options = parser.parse_args()
    if options.seed:
        found = asyncio.run(replay(options.seed, options.policy or "standard", system_qemu() if options.real else None))
        print(*found, sep="\n")
        return int(bool(found))
    end, bad = monotonic() + 60 * options.minutes, asyncio.run(play_pranks())
    rounds = [(p, b) for p in ([options.policy] if options.policy else POLICIES) for b in (None, system_qemu())]
    while monotonic() < end:
        policy, binary = rounds[0]
        rounds.append(rounds.pop(0))
        seed = f"{random.getrandbits(32):08x}"
        outcome = asyncio.run(play(seed, policy, binary, min(ROUND, end - monotonic())))
        bad += bool(outcome.faults)
        print(f"{policy:8} {'QEMU' if binary else 'fake':4} seed {seed}: {told(outcome)}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
