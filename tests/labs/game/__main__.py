"""`make game`: a thousand rounds of the random game on each real QEMU, ROUNDS=1000 SEED=1.

The exit code is 1 where the guard let happen what must never be; then the last rounds are told.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from qmpguard.demo.lab import LabUnavailable, system_qemu, vfio_qemu
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from tests.labs.game.table import play

QEMUS = {"system": system_qemu, "11.1": vfio_qemu}


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.labs.game")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--qemu", choices=QEMUS, help="one QEMU only")
    parser.add_argument("--profile", choices=[profile.value for profile in Profile], default="standard")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # refusals and lost links are part of the game
    policy = Policy(profile=Profile(options.profile))
    chosen = [options.qemu] if options.qemu else list(QEMUS)
    return max(one_game(name, policy, options.rounds, options.seed) for name in chosen)


def one_game(name: str, policy: Policy, rounds: int, seed: int) -> int:
    """Play a game on a QEMU, tell what came of it, and return the exit code."""
    try:
        binary = QEMUS[name]()
    except LabUnavailable as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="game") as folder:
        game = asyncio.run(play(Path(folder), binary, policy, rounds, seed))
    counts = ", ".join(f"{what}: {count}" for what, count in sorted(game.seen.items()))
    verdict = "LOST" if game.is_lost else "won"
    print(f"{verdict} {name} {policy.profile.value}, {rounds} rounds, seed {seed} | rounds in which was seen: {counts}")
    for line in (*game.ends, *(game.story if game.is_lost else ())):
        print(f"  {line}", flush=True)
    return int(game.is_lost)


if __name__ == "__main__":
    sys.exit(main())
