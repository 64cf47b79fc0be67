"""Goes through every order of the events of a scenario up to a depth, and checks the promises after each event.

A walk begins at a state from which an event was not tried yet, and goes on to states that were not seen before, as far
as it can. There QEMU answers all that it was sent, and nothing may be left (`World.settle`). A state is reached again
by playing the events that lead to it from the beginning. Orders that lead to the same state (`fingerprint`) are gone
on with once: what follows is the same for all of them.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from tests.model.fingerprint import fingerprint
from tests.model.stand_ins import substituted
from tests.model.streams import BrokenPromiseError
from tests.model.world import World

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.model.world import Scenario

clock = time.perf_counter


class Failure(NamedTuple):
    """A promise that was broken, and the events that led to it."""

    scenario: str
    events: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.scenario}: {self.text}\n  after {len(self.events)} events: {', '.join(self.events)}"


@dataclass
class State:
    """A state: the shortest known order that leads to it, the events that can follow, and where they have led."""

    events: tuple[str, ...]
    following: tuple[str, ...]
    next: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Coverage:
    """What was covered: states, steps from one state to another, and orders of at most ``depth`` events.

    ``complete``: there is nothing behind the states that were seen, and ``depth`` is that of the longest order.
    ``is_cut_short``: the time was over, so not all orders of that depth were tried.
    """

    states: int = 0
    steps: int = 0
    orders: int = 0
    depth: int = 0
    complete: bool = False
    is_cut_short: bool = False
    seconds: float = 0.0
    failure: Failure | None = None


@contextmanager
def modelled() -> Generator[None]:
    """Put the model's parts in their places, silence the log, and collect no garbage in between."""
    with ExitStack() as stack:
        for each in substituted():
            stack.enter_context(each)
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, level)
        yield


def play(scenario: Scenario, events: tuple[str, ...], *, fine: bool) -> World:
    """Return the world after some events that break no promise."""
    world = World(scenario, fine=fine)
    for event in events:
        world.apply(event)
    return world


def explore(scenario: Scenario, *, depth: int, fine: bool = False, seconds: float = float("inf")) -> Coverage:
    """Go through all orders of at most ``depth`` events, or until the time is over; stop at a broken promise."""
    begun, more = clock(), True
    explorer = Explorer(scenario, depth, fine=fine)
    with modelled():
        while more and explorer.failure is None and clock() - begun < seconds:
            more = explorer.walk()
        if explorer.failure is not None:
            explorer.failure = shortened(scenario, explorer.failure, fine=fine)
    found = explorer.coverage()
    found.seconds, found.is_cut_short = clock() - begun, more
    return found


class Explorer:
    """The states of one scenario that were seen so far, by their fingerprints."""

    def __init__(self, scenario: Scenario, depth: int, *, fine: bool) -> None:
        self.failure: Failure | None = None
        self._scenario = scenario
        self._depth = depth
        self._fine = fine
        self._states: dict[bytes, State] = {}
        self._open: list[bytes] = []  # states from which events were not tried yet, perhaps
        self._first = b""

    def walk(self) -> bool:
        """Take one walk. Return False where there is none left."""
        begin = self._begin()
        if begin is None:
            return False
        events = list(self._states[begin].events) if begin else []
        world = play(self._scenario, tuple(events), fine=self._fine)
        try:
            here = begin or self._arrive(world, None, events)
            while (event := self._untried(here)) is not None:
                events.append(event)
                world.apply(event)
                here = self._arrive(world, self._states[here], events)
            world.settle()
            world.close()
        except BrokenPromiseError as error:
            self.failure = Failure(self._scenario.name, tuple(events), str(error))
            world.discard()
        return True

    def _begin(self) -> bytes | None:
        """Return the state at which the next walk begins; empty for the very first, None where there is none."""
        if not self._states:
            return b""
        while self._open:
            if self._untried(self._open[-1]) is not None:
                return self._open[-1]
            self._open.pop()
        return None

    def _untried(self, digest: bytes) -> str | None:
        state = self._states[digest]
        if len(state.events) >= self._depth:
            return None
        return next((event for event in state.following if event not in state.next), None)

    def _arrive(self, world: World, before: State | None, events: list[str]) -> bytes:
        """Take note of the state that a world is in, and return its fingerprint."""
        digest = fingerprint(world)
        if before is None:
            self._first = digest
        else:
            before.next[events[-1]] = digest
            events = [*before.events, events[-1]]
        self._reach(digest, tuple(events), world)
        return digest

    def _reach(self, digest: bytes, events: tuple[str, ...], world: World) -> None:
        """Take an order that leads to a state; where it is the shortest so far, so are those that go on from there."""
        if digest not in self._states:
            self._states[digest] = State(events, tuple(world.events()))
            self._open.append(digest)
            return
        better = [(digest, events)]
        while better:
            digest, events = better.pop()
            state = self._states[digest]
            if len(events) < len(state.events):
                state.events = events
                self._open.append(digest)
                better += [(following, (*events, event)) for event, following in state.next.items()]

    def coverage(self) -> Coverage:
        """Return what was covered."""
        states = self._states.values()
        complete = all(len(state.next) == len(state.following) for state in states)
        found = Coverage(len(states), sum(len(state.next) for state in states), complete=complete)
        found.orders, longest = self._orders()
        found.depth = longest if complete else self._depth
        found.failure = self.failure
        return found

    def _orders(self) -> tuple[int, int]:
        """Return how many orders of at most ``depth`` events there are, and the length of the longest."""
        ways, total, length = {self._first: 1}, 0, 0
        while ways and length < self._depth:
            further: dict[bytes, int] = {}
            for digest, count in ways.items():
                following = self._states[digest].next.values()
                for each in following:
                    further[each] = further.get(each, 0) + count
                total += 0 if following else count  # it ends here
            ways, length = further, length + bool(further)
        return total + sum(ways.values()), length


def shortened(scenario: Scenario, failure: Failure, *, fine: bool) -> Failure:
    """Return a failure without the events that it does not need."""
    events, place = failure.events, 0
    while place < len(events):
        fewer = (*events[:place], *events[place + 1 :])
        text = broken_by(scenario, fewer, fine=fine)
        if text is None:
            place += 1
        else:
            events, failure = fewer, failure._replace(events=fewer, text=text)
    return failure


def broken_by(scenario: Scenario, events: tuple[str, ...], *, fine: bool) -> str | None:
    """Return which promise an order of events breaks; None for none, and for an order that cannot be."""
    world = World(scenario, fine=fine)
    try:
        for event in events:
            if event not in world.events():
                break
            world.apply(event)
        else:
            world.settle()
        world.close()
    except BrokenPromiseError as error:
        world.discard()
        return str(error)
    return None
