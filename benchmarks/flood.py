"""What a flood of small junk at one VM does to the client of another VM of the same guard.

As a process: `python -m benchmarks.flood SOCKET JUNK`, which sends junk as fast as it is taken, and reads the answers.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import rig
from benchmarks.client import Connection, least

#: what floods, each a message or an error of its own
JUNK = ("{}", "x ", "[]")
#: round trips of one measurement
TRIPS = 400
#: seconds for the flood to be at its height
RISES = 0.3


def flood(path: Path, junk: str) -> None:
    """Send junk until killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        threading.Thread(target=_drain, args=(sock,), daemon=True).start()
        block = junk.encode() * 8192
        while True:
            sock.sendall(block)


def _drain(sock: socket.socket) -> None:
    while sock.recv(1 << 18):
        pass


def measure(folder: Path, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Yield for each junk the quotients of worst and of median round trips with a flood and without, interleaved.

    At FOLDER/0.qemu and FOLDER/1.qemu are two QEMUs.
    """
    with rig.process(sys.executable, "-m", "benchmarks.many", str(folder), "2"):
        client = Connection(folder / "1.sock")
        Connection(folder / "0.sock").close()
        client.single_trips(least("query-status"), TRIPS)
        for junk in JUNK:
            pairs = [_pair(client, folder / "0.sock", junk) for _ in range(rounds)]
            worst, middle = (sorted(quotients)[len(pairs) // 2] for quotients in zip(*pairs, strict=True))
            yield junk, worst, middle
        client.close()


def _pair(client: Connection, path: Path, junk: str) -> tuple[float, float]:
    quiet = sorted(client.single_trips(least("query-status"), TRIPS))
    with rig.process(sys.executable, "-m", "benchmarks.flood", str(path), junk):
        time.sleep(RISES)
        loud = sorted(client.single_trips(least("query-status"), TRIPS))
    return loud[-1] / quiet[-1], loud[TRIPS // 2] / quiet[TRIPS // 2]


if __name__ == "__main__":
    flood(Path(sys.argv[1]), sys.argv[2])
