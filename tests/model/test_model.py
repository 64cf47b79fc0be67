"""All orders of the first events of each scenario; `make model` goes on to the end of most of them."""

from __future__ import annotations

import asyncio

import pytest

from qmpguard.proxy.judging.gate import Gate
from tests.model.__main__ import HEAD, replay, told
from tests.model.explorer import broken_by, explore, modelled, play
from tests.model.fingerprint import fingerprint
from tests.model.scenarios import EVERYTHING, PLUG, POSTCOPY, SCENARIOS
from tests.model.world import Scenario

#: events in an order
DEPTH = 4
RACE = Scenario("a race", (PLUG,), (POSTCOPY,))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_promise_is_kept_in_every_order(scenario: Scenario) -> None:
    found = explore(scenario, depth=DEPTH)
    assert found.failure is None, str(found.failure)
    assert found.states > 20


def test_every_promise_is_kept_when_all_comes_together_and_each_turn_of_the_loop_counts() -> None:
    found = explore(EVERYTHING, depth=3, fine=True)
    assert found.failure is None, str(found.failure)
    assert found.states > 50


def test_a_scenario_is_gone_through_to_its_end() -> None:
    found = explore(RACE, depth=100)
    assert found.complete
    assert found.depth < 100
    assert "all" in told(RACE.name, found, fine=False)
    assert len(told(RACE.name, found, fine=False)) == len(HEAD)


def test_an_order_leads_to_the_same_state_each_time_and_others_to_others() -> None:
    orders = (("A sends", "B sends"), ("A sends", "B sends"), ("B sends", "A sends"), ("A sends",))
    digests = []
    with modelled():
        for events in orders:
            world = play(RACE, events, fine=False)
            digests.append(fingerprint(world))
            world.close()
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_without_the_gates_lock_the_combination_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model is for: two operations that are judged at the same time, and each is harmless alone."""

    class Open(asyncio.Lock):
        async def acquire(self) -> bool:  # type: ignore[override]
            return True

        def release(self) -> None:
            """It was not taken."""

    begin = Gate.__init__

    def begun(gate: Gate, *arguments: object) -> None:
        begin(gate, *arguments)  # type: ignore[arg-type]
        gate.turn = Open()

    monkeypatch.setattr(Gate, "__init__", begun)
    failure = explore(RACE, depth=30).failure
    assert failure is not None
    assert "the combination: " in failure.text
    assert len(failure.events) < 20


def test_an_order_that_breaks_a_promise_can_be_played_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay("an override", ["A sends", "QEMU executes"], fine=False) == 0
    assert "every promise is kept" in capsys.readouterr().out
    with modelled():
        assert broken_by(RACE, ("A sends", "no such event"), fine=False) is None
