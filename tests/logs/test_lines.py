"""The queue and the thread behind it: what is not written is confessed, exactly and in its place."""

from __future__ import annotations

import errno
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpguard.errors import ConfigError
from qmpguard.logs.lines import LineQueue, LineWriter, QueuedLine

#: seconds that a thread may take for anything here
TIMEOUT = 20.0


class Disk:
    """An output whose every write does what a script says: bytes that fit, or an error. Afterwards all goes well."""

    def __init__(self, *script: int | OSError) -> None:
        self.data = b""
        self.told: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self._script = list(script)

    def open(self) -> None:
        pass

    def reopen(self) -> bool:
        self.data += b"--\n"
        return True

    def write(self, data: bytes) -> int:
        self.reached.set()
        assert self.gate.wait(TIMEOUT)
        step = self._script.pop(0) if self._script else len(data)
        if isinstance(step, OSError):
            raise step
        self.data += data[:step]
        return min(step, len(data))

    def close(self) -> None:
        pass

    def loss_notice(self, lines: int) -> bytes:
        return json.dumps({"lost": lines}).encode()

    def failed(self, reason: str) -> None:
        self.told.append(reason)

    def recovered(self, lines: int) -> None:
        self.told.append(f"recovered {lines}")

    @property
    def lines(self) -> list[Any]:
        """Whole lines: what is written, as numbers, and what is confessed."""
        return [json.loads(line) for line in self.data.splitlines() if line.endswith((b"]", b"}"))]


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def steps() -> st.SearchStrategy[list[int | OSError]]:
    return st.lists(st.one_of(st.integers(0, 12), st.builds(full)), max_size=12)


@given(steps(), st.integers(1, 12))
def test_every_line_is_written_or_confessed_in_its_place(script: list[int | OSError], lines: int) -> None:
    disk = Disk(*script)
    queue = LineQueue(1000, 1 << 20)
    writer = LineWriter("test", disk, queue)
    for number in range(lines):
        writer.put(f"[{number}]".encode())
    writer.put(b"[-1]")
    writer.end(TIMEOUT)
    assert writer.join(TIMEOUT) == 0
    expected, confessed = 0, 0
    for line in disk.lines:
        if isinstance(line, dict):
            expected += line["lost"]
            confessed += line["lost"]
        else:
            assert line in ([expected], [-1]), disk.data
            expected += 1
    if expected == lines + 1:  # the disk was good again before the end
        assert confessed == queue.lost, disk.data


def test_a_queue_that_is_full_says_in_the_file_how_many_lines_are_missing_and_where() -> None:
    disk, queue = Disk(), LineQueue(2, 1000)
    disk.gate.clear()
    writer = LineWriter("test", disk, queue)
    writer.put(b"[0]")
    assert disk.reached.wait(TIMEOUT)
    for number in range(1, 8):
        writer.put(f"[{number}]".encode())
    disk.gate.set()
    while queue.put(b"[8]") is False:
        pass
    writer.end(TIMEOUT)
    assert writer.join(TIMEOUT) == 0
    lost = queue.lost
    assert [line for line in disk.lines if isinstance(line, list)] == [[0], [1], [2], [8]]
    assert sum(line["lost"] for line in disk.lines if isinstance(line, dict)) == lost
    assert disk.lines[3] == {"lost": lost}
    assert disk.told[0] == "it takes lines too slowly"
    assert disk.told[-1] == f"recovered {lost}"


def test_the_queue_is_bounded_in_bytes_and_what_is_larger_than_all_of_it_is_lost() -> None:
    queue = LineQueue(1000, 100)
    assert queue.put(b"x" * 60)
    assert not queue.put(b"x" * 60)
    assert queue.put(b"x" * 40)
    assert not queue.put(b"x")
    taken = queue.take()
    assert taken is not None
    assert taken.line is not None
    assert queue.put(b"x" * 60)
    assert not queue.put(b"x" * 101)
    assert queue.lost == 3


def test_what_is_dropped_at_the_end_is_confessed_in_the_file() -> None:
    disk, queue = Disk(), LineQueue(100, 1000)
    disk.gate.clear()
    writer = LineWriter("test", disk, queue)
    writer.put(b"[0]")
    assert disk.reached.wait(TIMEOUT)
    for number in range(1, 8):
        writer.put(f"[{number}]".encode())
    writer.end(0)
    disk.gate.set()
    assert writer.join(TIMEOUT) == 0
    assert disk.lines == [[0], {"lost": 7}]
    assert queue.lost == 7


def test_an_output_that_hangs_at_the_end_is_given_up_and_its_lines_are_counted() -> None:
    disk, queue = Disk(), LineQueue(100, 1000)
    disk.gate.clear()
    writer = LineWriter("test", disk, queue)
    for number in range(3):
        writer.put(f"[{number}]".encode())
    assert disk.reached.wait(TIMEOUT)
    writer.end(0)
    assert writer.join(0.01) == 3
    assert queue.lost == 3
    disk.gate.set()
    writer.join(TIMEOUT)


def test_a_reopening_keeps_its_place_among_the_lines_though_the_queue_is_full() -> None:
    disk, queue = Disk(), LineQueue(2, 1000)
    disk.gate.clear()
    writer = LineWriter("test", disk, queue)
    writer.put(b"[0]")
    assert disk.reached.wait(TIMEOUT)
    writer.put(b"[1]")
    writer.put(b"[2]")
    queue.reopen()
    writer.put(b"[3]")
    disk.gate.set()
    writer.end(TIMEOUT)
    assert writer.join(TIMEOUT) == 0
    assert disk.data == b'[0]\n[1]\n[2]\n--\n{"lost": 1}\n'


def test_both_sides_count_into_the_same_number() -> None:
    queue = LineQueue(0, 0)

    def lose() -> None:
        for _ in range(5000):
            queue.put(b"x")
            queue.lose()

    threads = [threading.Thread(target=lose) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert queue.lost == 4 * 2 * 5000


def test_an_output_that_cannot_be_used_says_so_to_who_waits_for_it() -> None:
    class Unusable(Disk):
        def open(self) -> None:
            raise ConfigError("no")

    writer = LineWriter("test", Unusable(), LineQueue(1, 1))
    with pytest.raises(ConfigError, match="no"):
        writer.opened.result(TIMEOUT)
    writer.join(TIMEOUT)
    assert writer.has_ended


def test_a_line_says_how_many_are_missing_before_it() -> None:
    queue = LineQueue(1, 1000)
    queue.put(b"a")
    queue.put(b"b")
    queue.put(b"c")
    assert queue.take() == QueuedLine(b"a")
    queue.put(b"d")
    assert queue.take() == QueuedLine(b"d", missing=2)
    queue.count()
    assert queue.take() == QueuedLine(None, missing=1)
