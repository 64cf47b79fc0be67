"""`python -m tests.labs.mutants [--sample N] [--seed S] [MODULE...]`: which mutants do the mirrored tests notice?

Each mutant is put into a copy of the package and run against the tests of its own module, and of no other: so each
module is held by its own tests. A survivor is printed with its line. Those that are known, with the reason why no test
notices them, are in `known.txt` beside this file; the exit code says whether there are others. A mutant whose tests do
not end counts as noticed, and is printed too.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from tests.labs.mutants.mutations import Mutation, mutations

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[3]
KNOWN = Path(__file__).with_name("known.txt")
#: what is pure: the layers `wire` and `policy`, and the conversations of the proxy
PURE = (
    *("wire", "policy", "proxy/clients", "proxy/judging"),
    *("proxy/qemu/link.py", "proxy/qemu/scheduler.py"),
)
#: seconds for the tests of one mutant, which may wait for ever; they take 2 to 10, and longer beside other work
TIMEOUT = 300.0
#: what pytest returns where a test has failed, or could not be collected
NOTICED = (1, 2)


class Mutant(NamedTuple):
    """One mutation of one module, by its path below the package."""

    module: Path
    mutation: Mutation

    def __str__(self) -> str:
        return f"{self.module}:{self.mutation.line}: {_short(self.mutation.before)} -> {_short(self.mutation.after)}"

    @property
    def key(self) -> str:
        """What it is known by, wherever its line moves to."""
        return f"{self.module}: {_short(self.mutation.before)} -> {_short(self.mutation.after)}"


def _short(text: str) -> str:
    return " ".join(text.split())[:100]


def modules(chosen: Sequence[str]) -> list[Path]:
    """Return the modules to change, by their paths below the package."""
    package = ROOT / "qmpguard"
    places = [package / name for name in chosen or PURE]
    found = [each for place in places for each in ([place] if place.is_file() else sorted(place.rglob("*.py")))]
    return [path.relative_to(package) for path in found if path.name != "__init__.py" and tests_of(path).exists()]


def tests_of(path: Path) -> Path:
    """Return the tests of a module."""
    module = path.relative_to(ROOT / "qmpguard") if path.is_absolute() else path
    return ROOT / "tests" / module.with_name(f"test_{module.name}")


def mutants(chosen: Sequence[str]) -> list[Mutant]:
    """Return every mutant of some modules, in order."""
    return [
        Mutant(module, mutation)
        for module in modules(chosen)
        for mutation in mutations((ROOT / "qmpguard" / module).read_text())
    ]


class Copy:
    """A copy of the package in which one mutant at a time is tested."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.copytree(ROOT / "qmpguard", folder / "qmpguard", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def notices(self, mutant: Mutant) -> bool:
        """Return whether the tests of its module notice a mutant."""
        path = self._folder / "qmpguard" / mutant.module
        source = path.read_text()
        path.write_text(mutant.mutation.source)
        try:
            return self._fails(tests_of(mutant.module))
        except subprocess.TimeoutExpired:
            print(f"NO END {mutant}", flush=True)
            return True
        finally:
            path.write_text(source)

    def _fails(self, tests: Path) -> bool:
        command = (sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly")
        environment = {**os.environ, "PYTHONPATH": str(self._folder), "CI": "true"}  # no deadline of hypothesis
        done = subprocess.run(
            (*command, str(tests.relative_to(ROOT))),
            cwd=self._folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode not in (0, *NOTICED):
            raise RuntimeError(done.stdout.decode(errors="replace")[-2000:])
        return done.returncode != 0

    def is_sound(self) -> bool:
        """Return whether the tests pass with nothing changed, and look at this copy."""
        path = Path("wire/qemu_messages.py")
        source = (ROOT / "qmpguard" / path).read_text()
        whole = Mutant(path, Mutation(1, "", "", source))
        broken = Mutant(path, Mutation(1, "", "", f"{source}\nraise RuntimeError"))
        return not self.notices(whole) and self.notices(broken)


def known() -> dict[str, str]:
    """Return the known survivors, each with its reason."""
    lines = [line for line in KNOWN.read_text().splitlines() if line and not line.startswith("#")]
    return {key.strip(): reason.strip() for key, _, reason in (line.partition(" # ") for line in lines)}


def survivors(tried: Sequence[Mutant], workers: int) -> list[Mutant]:
    """Return the mutants that their tests do not notice, and say each as it is found."""
    copies: SimpleQueue[Copy] = SimpleQueue()

    def survives(mutant: Mutant) -> bool:
        copy = copies.get()
        try:
            return not copy.notices(mutant)
        finally:
            copies.put(copy)

    with tempfile.TemporaryDirectory(prefix="mutants") as folder, ThreadPoolExecutor(workers) as pool:
        for number in range(workers):
            copies.put(Copy(Path(folder) / str(number)))
        first = copies.get()
        if not first.is_sound():
            raise SystemExit("the tests do not look at the copy, or fail without a mutant")
        copies.put(first)
        found = []
        for mutant, alive in zip(tried, pool.map(survives, tried), strict=True):
            if alive:
                found.append(mutant)
                print(f"SURVIVED {mutant}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.labs.mutants")
    parser.add_argument("--sample", type=int, default=0, help="so many of them; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("modules", nargs="*", help="paths below the package, in place of all that is pure")
    options = parser.parse_args()
    tried = mutants(options.modules)
    if 0 < options.sample < len(tried):
        tried = random.Random(options.seed).sample(tried, options.sample)
    os.nice(10)
    alive = survivors(tried, options.workers)
    reasons = known()
    new = [mutant for mutant in alive if mutant.key not in reasons]
    print(f"mutants {len(tried)}, noticed {len(tried) - len(alive)}, known survivors {len(alive) - len(new)}")
    print(f"survivors that are not known: {len(new)}")
    return int(bool(new))


if __name__ == "__main__":
    sys.exit(main())
