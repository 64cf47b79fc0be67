"""Hang-ups: of a socket from which nothing is read it is noticed, once, that its other side has closed."""

from __future__ import annotations

import asyncio
import select
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from qmpguard.proxy.sockets.hangups import BATCH, Hangups
from tests.support.guarding import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
async def hangups() -> AsyncGenerator[Hangups]:
    found = Hangups()
    yield found
    found.close()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_hang_up_is_told_once(hangups: Hangups, pair: Pair) -> None:
    ours, theirs = pair
    told: list[str] = []
    hangups.watch(ours.fileno(), lambda: told.append("gone"))
    hangups.watch(ours.fileno(), lambda: told.append("again"))  # it is watched already
    await turns()
    assert told == []
    theirs.close()
    await eventually(lambda: bool(told))
    await turns()
    assert told == ["gone"]


async def test_bytes_and_a_half_close_are_no_hang_up(hangups: Hangups, pair: Pair) -> None:
    ours, theirs = pair
    told: list[str] = []
    hangups.watch(ours.fileno(), lambda: told.append("gone"))
    theirs.sendall(b"x")
    theirs.shutdown(socket.SHUT_WR)
    await turns()
    assert told == []
    theirs.close()
    await eventually(lambda: told == ["gone"])


async def test_what_is_forgotten_is_not_told_of(hangups: Hangups, pair: Pair) -> None:
    ours, theirs = pair
    told: list[str] = []
    hangups.watch(ours.fileno(), lambda: told.append("gone"))
    hangups.forget(ours.fileno())
    hangups.forget(ours.fileno())
    theirs.close()
    await turns()
    assert told == []


async def test_a_callback_may_have_another_one_forgotten(hangups: Hangups) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    told: list[int] = []

    def gone(number: int) -> None:
        told.append(number)
        for ours, _ in pairs:
            hangups.forget(ours.fileno())
            ours.close()

    for ours, theirs in pairs:
        hangups.watch(ours.fileno(), partial(gone, ours.fileno()))
        theirs.close()
    await eventually(lambda: bool(told))
    await turns()
    assert len(told) == 1


async def test_however_many_hang_up_at_once_all_are_told(hangups: Hangups) -> None:
    pairs = [socket.socketpair() for _ in range(2 * BATCH)]
    told: set[int] = set()
    for ours, _ in pairs:
        hangups.watch(ours.fileno(), partial(told.add, ours.fileno()))
    for _, theirs in pairs:
        theirs.close()
    await eventually(lambda: len(told) == len(pairs))
    for ours, _ in pairs:
        ours.close()


async def test_without_a_descriptor_for_it_a_hang_up_goes_unnoticed(
    hangups: Hangups, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left() -> select.epoll:
        raise OSError(24, "Too many open files")

    ours, theirs = pair
    told: list[str] = []
    monkeypatch.setattr(select, "epoll", none_left)
    hangups.watch(ours.fileno(), lambda: told.append("gone"))
    monkeypatch.undo()
    theirs.close()
    await turns()
    assert told == []
    hangups.watch(ours.fileno(), lambda: told.append("later"))  # and with one it is watched
    await eventually(lambda: told == ["later"])


async def test_what_cannot_be_watched_is_passed_over(hangups: Hangups, pair: Pair) -> None:
    number = pair[0].fileno()
    pair[0].close()
    hangups.watch(number, lambda: None)
    hangups.forget(number)


async def test_after_the_end_nothing_is_told_and_it_may_begin_anew(pair: Pair) -> None:
    ours, theirs = pair
    told: list[str] = []
    hangups = Hangups()
    hangups.close()
    hangups.watch(ours.fileno(), lambda: told.append("before"))
    hangups.close()
    hangups.watch(ours.fileno(), lambda: told.append("after"))
    theirs.close()
    await eventually(lambda: bool(told))
    hangups.close()
    assert told == ["after"]
