"""What one client can do to the others: `python -m benchmarks.stall`, one guard of two VMs.

A client of one VM sends the largest requests that the guard takes, each made of what takes longest to read or to
write. Its QEMU is a fake that reads as fast as it is written to: a real one reads a byte at a time, some 250 KB/s. The
client of the other VM asks a real QEMU for its `query-status` all the while: its worst round trip, and how long the
big request itself was under way, are printed beside the worst round trip of a quiet time as long.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import rig
from benchmarks.client import Connection, request
from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.wire.framing import MAX_REQUEST, MAX_TOKENS

STATUS = request("query-status")
#: what a request can be full of, and its tokens with a comma
FILLINGS = {
    "decimal fractions": (b"0.5", 2),
    "lists": (b"[]", 3),
    "objects": (b'{"a": []}', 7),
    "texts": (b'"a"', 2),
    "numbers beyond 64 bits": (b"9" * 100, 2),
}
TEXTS = {"one text": b"a", "one text of accents": "é".encode(), "one text of escapes": b"\\n"}
#: where a request can be full of it
PLACES = {
    "arguments": b'{"execute": "query-status", "arguments": {"a": %b}}',
    "id": b'{"execute": "query-status", "id": %b}',
    "judged": b'{"execute": "migrate-set-capabilities", "arguments": {"capabilities": %b}}',
    "HMP": b'{"execute": "human-monitor-command", "arguments": {"command-line": %b}}',
}


def fillings(size: int) -> dict[str, bytes]:
    """Return values of about ``size`` bytes, none with more tokens than QEMU takes."""
    many = {
        name: b"[%b]" % b",".join([one] * min(size // (len(one) + 1), MAX_TOKENS // tokens - 100))
        for name, (one, tokens) in FILLINGS.items()
    }
    few = {name: b'"%b"' % (one * (size // len(one))) for name, one in TEXTS.items()}
    deep = b"[" * 900 + b"[%b]" % b",".join([b"[]"] * min(size // 3, MAX_TOKENS // 3 - 1000)) + b"]" * 900
    return {**many, **few, "lists, deep": deep}


class Others:
    """The client of the other VM, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._client = Connection(path)
        self.worst = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            trip = self._client.round_trips(STATUS, 1)
            self.worst = max(self.worst, trip)
            time.sleep(0.0005)

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
        self._thread.join()
        self._client.close()

    def during(self, path: Path, message: bytes) -> tuple[float, float]:
        """Return the worst round trip while a message is sent and answered, and how long that took, in seconds."""
        big = Connection(path)
        self.worst = 0.0
        begun = time.perf_counter()
        big.ask(message)
        took = time.perf_counter() - begun
        worst = self.worst
        big.close()
        return worst, took

    def quietly(self, seconds: float) -> float:
        """Return the worst round trip of a quiet time."""
        self.worst = 0.0
        time.sleep(seconds)
        return self.worst


def measure(folder: Path, size: int, rounds: int, only: list[str]) -> None:
    """Print a line for each kind of request, with the median of its rounds."""
    with (
        rig.process(sys.executable, "-m", "benchmarks.idle_qemus", str(folder / "0.qemu"), ready=True),
        rig.process(sys.executable, "-m", "benchmarks.many", str(folder), "2"),
    ):
        others = Others(folder / "1.sock")
        print(f"{'a request full of':24} {'in':10} {'worst of others':>16} {'quiet':>9} {'took':>9}")
        for name, value in fillings(size).items():
            for place, frame in PLACES.items():
                if only and name not in only:
                    continue
                runs = sorted(others.during(folder / "0.sock", frame % value) for _ in range(rounds))
                worst, took = runs[rounds // 2]
                quiet = others.quietly(took)
                print(
                    f"{name:24} {place:10} {worst * 1e3:13.1f} ms {quiet * 1e3:6.1f} ms {took * 1e3:6.0f} ms",
                    flush=True,
                )
        others.close()


async def main() -> None:
    """Start a QEMU and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=MAX_REQUEST - 4096, help="bytes of a request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("only", nargs="*", help="kinds of requests; all where none is named")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stall") as name:
        folder = Path(name)
        async with Qemu(system_qemu(), folder) as qemu:
            (folder / "1.qemu").symlink_to(qemu.monitors[0])
            await asyncio.to_thread(measure, folder, arguments.size, arguments.rounds, arguments.only)


if __name__ == "__main__":
    asyncio.run(main())
