"""Whether a process is a guarded QEMU's: by its ancestors, and by what /proc shows of them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from qmpguard.daemon import descent
from qmpguard.daemon.descent import MAX_GENERATIONS, ancestry, why_refused
from qmpguard.proxy.listening.peer import ProcessIdentity, process_of
from qmpguard.record import Peer
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture

if TYPE_CHECKING:
    from collections.abc import Mapping

#: 40 is a QEMU with a child and a grandchild; 50 is a process beside it
TREE = {
    1: ProcessIdentity(1, 0, 0, 0, 1),
    40: ProcessIdentity(40, 0, 0, 1, 100),
    41: ProcessIdentity(41, 0, 0, 40, 200),
    42: ProcessIdentity(42, 0, 0, 41, 300),
    50: ProcessIdentity(50, 0, 0, 1, 150),
}
QEMUS = {"other": None, "web": ProcessIdentity(40, 107, 107, 1, 100)}


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> dict[int, ProcessIdentity]:
    """The processes of a machine, which a test may change."""
    processes = dict(TREE)
    monkeypatch.setattr(descent, "process_of", lambda pid: processes.get(pid, ProcessIdentity(pid, -1)))
    monkeypatch.setattr(descent, "_has_ended", lambda pid: pid not in processes)
    return processes


def refused(pid: int | None, qemus: Mapping[str, ProcessIdentity | None] = QEMUS, uid: int = 0) -> str | None:
    return why_refused(Peer(1, pid, uid, 0), qemus)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("pid", "words"),
    [
        (40, "process 40 is the QEMU of VM web (process 40), which may change nothing here"),
        (41, "process 41 was started by the QEMU of VM web (process 40)"),
        (42, "process 42 was started by the QEMU of VM web (process 40)"),
        (77, "process 77 has ended"),
        (50, None),
        (1, None),
        (None, None),  # by TCP, where there is no console
    ],
)
def test_a_qemu_and_what_it_started_are_refused_and_no_other(pid: int | None, words: str | None) -> None:
    reason = refused(pid)
    assert reason == words or (words and reason and reason.startswith(words))


def test_the_guards_own_process_is_never_a_qemu(tree: dict[int, ProcessIdentity]) -> None:
    tree[os.getpid()] = ProcessIdentity(os.getpid(), 0, 0, 1, 100)
    tree[43] = ProcessIdentity(43, 0, 0, os.getpid(), 200)
    inside = {"vm": tree[os.getpid()]}
    assert refused(os.getpid(), inside) is refused(43, inside) is None


def test_a_number_that_was_given_to_another_process_is_not_taken_for_the_qemu(tree: dict[int, ProcessIdentity]) -> None:
    tree[40] = ProcessIdentity(40, 0, 0, 1, 999)
    assert refused(40) is None, "QEMU has ended"
    assert refused(41) is None, "its parent has ended, and is not the process that has the number now"


def test_where_proc_hides_the_processes_only_qemu_itself_is_recognised(tree: dict[int, ProcessIdentity]) -> None:
    for pid in tree:
        tree[pid] = ProcessIdentity(pid, -1)
    hidden = {"web": ProcessIdentity(40, 107, 107)}
    assert refused(40, hidden) is not None
    assert refused(41, hidden) is refused(50, hidden) is None


def test_of_another_namespace_a_qemus_user_is_refused_where_it_may_be_the_qemu() -> None:
    hidden = {"web": ProcessIdentity(0, 107)}
    assert "run the command inside the guard's container" in (refused(0, hidden, uid=107) or "")
    assert refused(0, hidden, uid=0) is refused(0, QEMUS, uid=107) is None


def test_a_circle_of_parents_ends(tree: dict[int, ProcessIdentity]) -> None:
    tree[60], tree[61] = ProcessIdentity(60, 0, 0, 61, 5), ProcessIdentity(61, 0, 0, 60, 5)
    assert len(list(ancestry(60))) == MAX_GENERATIONS


async def test_a_real_process_is_found_by_its_parent() -> None:
    child = await start_process(sys.executable, "-c", "import time; time.sleep(600)")
    chain = list(ancestry(child.pid))
    assert [process.pid for process in chain[:2]] == [child.pid, os.getpid()]
    assert why_refused(Peer(1, child.pid, 0, 0), {"vm": process_of(child.pid)}) is not None
    child.kill()
    await child.wait()
    assert "has ended" in (why_refused(Peer(1, child.pid, 0, 0), {}) or "")


def test_where_the_sandbox_forbids_to_look_nobody_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: int) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", forbidden)
    assert why_refused(Peer(1, 4194305, 0, 0), {}) is None
