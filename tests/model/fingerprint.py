"""The state of a world as a short digest: two worlds with the same digest behave in the same way from then on.

Every object that can be reached is walked: attributes, items, the frames of coroutines that wait, and what is ready in
the loop. So no attribute can be forgotten. Left out is only what no decision reads: see `IGNORED`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import types
from collections import OrderedDict, deque
from enum import Enum
from functools import cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from qmpguard.config import Limits
from qmpguard.policy.facts import Facts
from qmpguard.policy.policy import Policy
from qmpguard.proxy.state.counters import Durations
from qmpguard.proxy.state.recorder import Recorder
from qmpguard.rate import LogRate
from qmpguard.record import Peer
from qmpguard.wire.client_messages import Request
from qmpguard.wire.lexer import _State
from qmpguard.wire.qemu_messages import Greeting
from tests.model.client import Step
from tests.model.loop import SteppingLoop
from tests.model.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

#: classes whose objects only tell what has happened, and the code that is the same in each world
IGNORED = (
    *(Recorder, Durations, LogRate, type, types.ModuleType, types.BuiltinFunctionType, memoryview),
    *(SteppingLoop, World, logging.Logger),
)
#: classes of whose objects each is made once
CONSTANT = frozenset({_State, Limits, Greeting, Step, re.Pattern})
#: classes whose objects are written as text
TEXT = (Enum, Policy, Facts, Peer, Request)
ATOMS = frozenset({int, str, bytes, bool, float, type(None), range})
#: attributes that count wake-ups of the event loop, and the way to the beginning of it all
LEFT_OUT = frozenset(
    {"wakeup", "count", "outbox", "_outbox", "_recorder", "recorder", "_budget", "_counters", "_schemas", "_tasks"}
)


def fingerprint(world: World) -> bytes:
    """Return the digest of a world's state."""
    walk = _Walk()
    for client in world.clients:
        walk.see((client.position, client.open, client.gone, client.negotiated, client.stream, client.tokens))
    machine = world.machine
    walk.see((machine.devices, machine.capabilities, machine.migration, machine.names, machine._batch))
    walk.see((machine._left_on, machine._gone))
    walk.see((machine.in_band, machine.out_of_band, machine.output, world.chances, sorted(world.excused)))
    walk.see((world.vm, world.connections.waiting, world.link))
    walk.see([(handle._callback, handle._args) for handle in world.loop.ready])  # type: ignore[attr-defined]
    walk.see([(timer.when() - world.loop.now, timer._callback) for timer in world.loop.timers])  # type: ignore[attr-defined]
    walk.see(world.loop.tasks)
    return blake2b(repr(walk.out).encode(), digest_size=12).digest()


class _Walk:
    """One walk; ``out`` is what was seen, in order. An object that was seen before stands there by its number."""

    def __init__(self) -> None:
        self.out: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no number is given twice

    def see(self, each: Any) -> None:
        kind = type(each)
        if kind in ATOMS:
            self.out.append(each)
        elif kind in CONSTANT:
            self.out.append(id(each))  # it lives as long as the process
        elif isinstance(each, TEXT):
            self.out.append(_text(each))
        elif not isinstance(each, IGNORED):
            self._see_parts(each, kind)

    def _see_parts(self, each: Any, kind: type) -> None:
        if (number := self._numbers.get(id(each))) is not None:
            self.out.append(("again", number))
            return
        self._numbers[id(each)] = len(self._numbers)
        self._kept.append(each)
        self.out.append(kind.__name__)
        for part in _parts_of(kind)(each):
            self.see(part)


@cache
def _parts_of(kind: type) -> Callable[[Any], Any]:
    """Return how objects of a class are taken apart."""
    return next((parts for base, parts in PARTS.items() if issubclass(kind, base)), _attributes)


@cache
def _slots(kind: Any) -> tuple[str, ...]:
    names = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
    return tuple(name for name in names if name not in LEFT_OUT and not name.startswith("__"))


def _text(value: object, known: dict[int, tuple[object, str]] = {}) -> str:  # noqa: B006 -- it is a cache
    """Return a value as text; values that live long are written once."""
    if not isinstance(value, Policy):
        return str(value)
    if id(value) not in known:
        known[id(value)] = value, repr(value)
    return known[id(value)][1]


def _attributes(each: Any) -> list[Any]:
    found: list[Any] = []
    kind: Any = type(each)
    for name in _slots(kind):
        found += name, getattr(each, name, None)
    for name, value in getattr(each, "__dict__", {}).items():
        if name not in LEFT_OUT:
            found += name, value
    return found


def _function(each: Any) -> tuple[Any, ...]:
    return (each.__qualname__, *(cell.cell_contents for cell in each.__closure__ or ()))


def _future(each: Any) -> tuple[Any, ...]:
    callbacks = [callback for callback, _ in each._callbacks or ()]
    if not each.done():
        return each._state, callbacks
    return each._state, callbacks, repr(each.exception() or each.result()) if not each.cancelled() else ""


def _task(each: Any) -> tuple[Any, ...]:
    return each.get_name(), each._state, each.cancelling(), each._must_cancel, each.get_coro(), each._fut_waiter


def _frame(each: Any, frame: Any, waits: object) -> tuple[Any, ...]:
    if frame is None:
        return (each.__qualname__,)
    return each.__qualname__, frame.f_lasti, tuple(frame.f_locals.items()), waits


#: how objects of these kinds are taken apart
PARTS: dict[Any, Callable[[Any], Any]] = {
    (tuple, list, deque): lambda each: (len(each), *each),
    (dict, OrderedDict): lambda each: (len(each), *(part for item in each.items() for part in item)),
    (set, frozenset): lambda each: (len(each), *sorted(each, key=_label)),
    types.MethodType: lambda each: (each.__func__.__qualname__, each.__self__),
    types.FunctionType: _function,
    partial: lambda each: (each.func, each.args, each.keywords),
    asyncio.Task: _task,
    asyncio.Future: _future,
    types.CoroutineType: lambda each: _frame(each, each.cr_frame, each.cr_await),
    types.GeneratorType: lambda each: _frame(each, each.gi_frame, each.gi_yieldfrom),
    types.AsyncGeneratorType: lambda each: _frame(each, each.ag_frame, each.ag_await),
    BaseException: lambda each: (str(each),),
    asyncio.Handle: lambda each: (each._callback, each._args),
}


def _label(each: Any) -> str:
    """Return what sorts a set: the members' own labels, or nothing where they have none."""
    for name in ("id", "peer", "name"):
        if hasattr(each, name):
            return str(getattr(each, name))
    return each if isinstance(each, str) else type(each).__name__
