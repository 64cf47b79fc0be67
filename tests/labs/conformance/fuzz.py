"""`make fuzz`: plays generated scripts to both QEMUs for MINUTES minutes, and says what differed."""

from __future__ import annotations

import logging
import random
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from hypothesis import HealthCheck, Phase, given, seed, settings

from qmpguard.demo.lab import system_qemu, vfio_qemu
from tests.support.conformance.differences import unexplained
from tests.support.conformance.strategies import SCRIPTS
from tests.support.conformance.twins import Script, Twins

#: scripts in one round, between two looks at the clock
ROUND = 100


def main(minutes: float) -> int:
    """Return 1 if anything differed."""
    logging.disable(logging.CRITICAL)
    end = time.monotonic() + 60 * minutes
    played, different, aborts, rounds = 0, 0, 0, 0
    with Pair(system_qemu()) as old, Pair(vfio_qemu()) as new:
        while time.monotonic() < end:
            number = random.getrandbits(64)
            for pair in (old, new):
                count, differs = _round(pair.twins, number)
                played, different = played + count, different + differs
                if pair.twins.aborted():
                    aborts += 1
                    pair.begin_anew()
            rounds += 1
            print(f"{played} scripts, {different} rounds with a difference, {aborts} aborts of QEMU alone", flush=True)
    print(f"{played} scripts in {minutes:g} minutes, rounds with an unlisted difference: {different} of {2 * rounds}")
    return int(different > 0)


class Pair:
    """Twins of one QEMU, which begin anew when it has aborted."""

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._stack = ExitStack()
        self.twins: Twins

    def __enter__(self) -> Self:
        self.begin_anew()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin_anew(self) -> None:
        self._stack.close()
        folder = self._stack.enter_context(TemporaryDirectory(prefix="fuzz"))
        self.twins = self._stack.enter_context(Twins(self._binary, Path(folder)))


def _round(twins: Twins, number: int) -> tuple[int, int]:
    """Play a round; print the smallest script that differs, if any."""
    played = 0

    @seed(number)
    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(SCRIPTS)
    def play(script: Script) -> None:
        nonlocal played
        if twins.aborted():
            return  # the rest of the round is left out
        played += 1
        try:
            straight, guarded = twins.play(script)
        except ConnectionError:
            if twins.aborted():
                return
            raise
        if twins.aborted():
            return
        assert not unexplained(straight, guarded, twins.version), "\n".join([repr(script), *straight, "---", *guarded])

    try:
        play()
    except Exception:  # noqa: BLE001 -- whatever it was, it is told, and the next round begins
        print(f"QEMU {'.'.join(map(str, twins.version))}, seed {number}:", file=sys.stderr)
        traceback.print_exc()
        return played, 1
    return played, 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
