"""A state is encoded anew when it shows something new, and only then."""

from __future__ import annotations

import json
from copy import copy, deepcopy
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import UnixAddress
from qmpguard.admin import serialize, state_cache
from qmpguard.admin.state_cache import StateCache, fingerprint
from qmpguard.policy.policy import Policy
from qmpguard.proxy.state.counters import Counters
from qmpguard.proxy.state.snapshot import Snapshot
from qmpguard.proxy.vm import Vm
from qmpguard.record import Run

if TYPE_CHECKING:
    from collections.abc import Callable

#: of a snapshot, what is another moment's and not another state
UNTOLD = {"time", "surveys"}
NUMBERS = [field.name for field in fields(Counters) if isinstance(getattr(Counters(), field.name), int)]


@pytest.fixture
def vm() -> Vm:
    return Vm("vm", UnixAddress("/nowhere"), Policy(), run=Run("abc"))


def told(shot: Snapshot) -> str:
    return json.dumps(serialize.vm(shot, Run("abc")))


@pytest.mark.parametrize("name", NUMBERS)
def test_a_count_that_is_told_makes_it_another_state(vm: Vm, name: str) -> None:
    shot = vm.snapshot()
    before = told(shot), fingerprint(shot)
    counts = deepcopy(shot.counts)
    setattr(counts, name, 77)
    after = replace(shot, counts=counts)
    assert (told(after) != before[0]) == (fingerprint(after) != before[1])


@pytest.mark.parametrize("name", [field.name for field in fields(Snapshot)])
def test_every_other_field_of_a_snapshot_is_compared(vm: Vm, name: str) -> None:
    shot = vm.snapshot()
    other = copy(shot)
    object.__setattr__(other, name, deepcopy(shot.counts) if name == "counts" else object())
    assert (fingerprint(shot) == fingerprint(other)) == (name in UNTOLD | {"counts"})


def test_what_stays_the_same_is_encoded_once(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[object] = []
    encode: Callable[[object], bytes] = state_cache.encode

    def counted(data: object) -> bytes:
        encoded.append(data)
        return encode(data)

    monkeypatch.setattr(state_cache, "encode", counted)
    known = StateCache(Run("abc"))
    first = known.of(vm)
    assert known.of(vm) is first
    assert len(encoded) == 1
    vm.counts.passed += 1
    assert json.loads(known.of(vm))["counts"]["passed"] == 1
    assert len(encoded) == 2
    known.keep_only([])
    assert not known._entries
