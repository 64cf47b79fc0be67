"""`python -m tests.model [--depth N] [--minutes M]`: all scenarios, with each turn of the event loop as an event.

It prints what was covered. ``--replay SCENARIO EVENT...`` plays one order of events, as a failure prints it.
"""

from __future__ import annotations

import argparse
import sys

from tests.model.explorer import Coverage, explore, modelled, play
from tests.model.scenarios import EVERYTHING, SCENARIOS
from tests.model.streams import BrokenPromiseError

HEAD = f"{'scenario':40} {'turns':>5} {'states':>8} {'steps':>8} {'depth':>6} {'orders':>10} {'seconds':>8}\n"


def told(name: str, found: Coverage, *, fine: bool) -> str:
    """Return a line of the table. ``all``: the longest order that there is; ``part``: the time was over."""
    depth = f"{found.depth} all" if found.complete else "part" if found.is_cut_short else str(found.depth)
    return (
        f"{name:40} {'each' if fine else 'none':>5} {found.states:8} {found.steps:8} {depth:>6}"
        f" {found.orders:10.2g} {found.seconds:8.1f}\n"
    )


def replay(name: str, events: list[str], *, fine: bool) -> int:
    """Play one order of events, and say which promise it breaks."""
    scenario = next(each for each in (*SCENARIOS, EVERYTHING) if each.name == name)
    with modelled():
        try:
            world = play(scenario, tuple(events), fine=fine)
            world.settle()
            world.close()
        except BrokenPromiseError as error:
            sys.stdout.write(f"{error}\n")
            return 1
    sys.stdout.write("every promise is kept\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--depth", type=int, default=200, help="events in one order")
    parser.add_argument("--minutes", type=float, default=2.0, help="for one scenario")
    parser.add_argument("--replay", nargs="+", metavar=("SCENARIO", "EVENT"))
    options = parser.parse_args()
    if options.replay:
        name, *events = options.replay
        return replay(name, events, fine="turn" in events)
    sys.stdout.write(HEAD)
    broken = 0
    for scenario in (*SCENARIOS, EVERYTHING):
        for fine in (False, True):
            found = explore(scenario, depth=options.depth, fine=fine, seconds=60 * options.minutes)
            sys.stdout.write(told(scenario.name, found, fine=fine))
            sys.stdout.flush()
            if found.failure is not None:
                broken += 1
                sys.stdout.write(f"BROKEN {found.failure}\n")
    sys.stdout.write(f"promises that were broken: {broken}\n")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
