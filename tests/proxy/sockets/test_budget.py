"""The budget: where all clients together hold too much, those that hold the most are closed, and no more of them."""

from __future__ import annotations

from qmpguard.proxy.sockets.budget import CHECKS, Budget


class Hoard:
    """A holder that tells whether it was closed."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.reasons: list[object] = []

    def close(self, reason: object) -> None:
        self.weight = 0
        self.reasons.append(reason)


LIMIT = 100 * CHECKS  # so that 100 bytes are the step between two reckonings


def closed(*hoards: Hoard) -> list[bool]:
    return [bool(hoard.reasons) for hoard in hoards]


def test_the_fullest_are_closed_of_whichever_vm_until_it_is_enough() -> None:
    budget = Budget(LIMIT)
    small, large, larger = Hoard(10), Hoard(2000), Hoard(2500)
    budget.watch([small, large])
    budget.watch([larger])
    budget.grew(100)
    assert closed(small, large, larger) == [False, False, True]
    large.weight = LIMIT
    budget.grew(100)
    assert closed(small, large, larger) == [False, True, True]
    assert len(larger.reasons) == 1


def test_it_is_reckoned_only_once_in_a_while() -> None:
    budget = Budget(LIMIT)
    hoard = Hoard(2 * LIMIT)
    budget.watch([hoard])
    budget.grew(99)
    assert not hoard.reasons
    budget.grew(1)
    assert hoard.reasons


def test_up_to_the_limit_nobody_is_closed() -> None:
    budget = Budget(LIMIT)
    hoard = Hoard(LIMIT - 100)
    budget.watch([hoard])
    budget.grew(100)
    assert not hoard.reasons
    hoard.weight += 1
    budget.grew(100)
    assert hoard.reasons


def test_a_collection_is_watched_as_it_changes_and_until_it_is_forgotten() -> None:
    budget = Budget(LIMIT)
    clients: list[Hoard] = []
    same: list[Hoard] = []  # equal, and another
    budget.watch(clients)
    budget.watch(same)
    budget.forget(same)
    clients.append(Hoard(2 * LIMIT))
    budget.grew(100)
    assert clients[0].reasons
    clients[0] = Hoard(2 * LIMIT)
    budget.forget(clients)
    budget.grew(100)
    assert not clients[0].reasons
