"""The game itself: a QEMU, its guard, three players and the watcher, and as many new QEMUs as end in between."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qmpguard.demo.qemu import Qemu
from qmpguard.demo.vfio_user import VfioUserServer
from tests.e2e.test_hazards import qcow2
from tests.e2e.test_races import sink
from tests.labs.game.moves import CRAWL, WORDS, Place, moves
from tests.labs.game.players import Player
from tests.labs.game.watcher import FORBIDDEN, LASTING, Hidden, look
from tests.support.guarding import connected, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from qmpguard.policy.policy import Policy
    from tests.support.guarding import Client
    from tests.support.scenes import Request

PLAYERS = 3
#: seconds for QEMU to answer the watcher; where it does, and not a player, the guard hangs
ANSWER = 20.0
#: rounds in which a migration may be in a state that it may never leave, before a new QEMU is taken
PATIENCE = 15
#: rounds that are told of when something is wrong
TOLD = 12


@dataclass(slots=True)
class Game:
    """What came of a game: in how many rounds each thing was seen, how QEMUs ended, and the last rounds."""

    seen: Counter[str] = field(default_factory=Counter)
    ends: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    @property
    def is_lost(self) -> bool:
        """Whether something was seen that must never be."""
        return bool(FORBIDDEN & (+self.seen).keys())

    def tell(self, round_: list[tuple[Request, Any]], now: set[str]) -> None:
        """Take a round."""
        self.seen.update(now)
        self.seen["refused"] += sum("qmpguard: rule" in str(reply) for _, reply in round_)
        self.story = [*self.story, f"{round_} -> {sorted(now)}"][-TOLD:]


class QemuEnded(Exception):  # noqa: N818 -- not an error: the game goes on with another
    """QEMU has ended, or answers its second monitor no more."""


async def play(folder: Path, binary: Path, policy: Policy, rounds: int, seed: int) -> Game:
    """Play rounds of a game and return what was seen; it ends early when it is lost.

    Raises AssertionError where a player gets no answer from a QEMU that answers the watcher.
    """
    game, chance = Game(), random.Random(seed)
    image = await qcow2(binary, folder)
    coming = iter([_round(chance, Place(folder)) for _ in range(rounds)])
    while not game.is_lost and await _with_one_qemu(game, Place(folder), binary, policy, image, coming):
        pass
    return game


def _round(chance: random.Random, place: Place) -> list[Request]:
    """Return the moves of a round, whatever has come of those before."""
    possible = moves(place)
    weights = [move.weight for move in possible]
    return [move.request for move in chance.choices(possible, weights, k=PLAYERS)]


async def _with_one_qemu(
    game: Game, place: Place, binary: Path, policy: Policy, image: Path, coming: Iterator[list[Request]]
) -> bool:
    """Play with one QEMU until it ends, its migration is stuck, or no round is left; return whether to go on."""
    hidden, lasting = Hidden(), 0
    async with _started(place, binary, policy, image) as (qemu, behind, players):
        for requests in coming:
            try:
                replies = await _played(qemu, behind, players, requests)
                hidden.after(round_ := list(zip(requests, replies, strict=True)))
                now: set[str] = await _seen(qemu, look(behind, place, hidden=hidden.is_certain))
                game.tell(round_, now)
            except QemuEnded as ended:
                game.ends.append(f"{ended}: {requests}")
                return True
            if game.is_lost:
                return False
            lasting = lasting + 1 if now & LASTING else 0
            if lasting > PATIENCE:
                return True
        return False


async def _played(qemu: Qemu, behind: Client, players: list[Player], requests: list[Request]) -> list[Any]:
    """Return the replies of a round. Raises QemuEnded, or AssertionError where the guard does not answer."""
    try:
        return await asyncio.gather(*(player.do(r) for player, r in zip(players, requests, strict=True)))
    except TimeoutError:
        await _seen(qemu, behind.ask("query-status"))
        raise AssertionError(f"the guard does not answer, and QEMU does: {requests}") from None


async def _seen(qemu: Qemu, asked: Any) -> Any:
    """Return what the watcher is answered; raises QemuEnded where it is not."""
    try:
        async with asyncio.timeout(ANSWER):
            return await asked
    except TimeoutError:
        raise QemuEnded("QEMU hung") from None
    except (ConnectionError, TypeError):
        async with asyncio.timeout(ANSWER):
            raise QemuEnded(f"QEMU ended with {await qemu.process.wait()}") from None


@asynccontextmanager
async def _started(
    place: Place, binary: Path, policy: Policy, image: Path
) -> AsyncGenerator[tuple[Qemu, Client, list[Player]]]:
    words = [*WORDS, "-drive", f"if=none,node-name=disk,format=qcow2,file={image}"]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(VfioUserServer(place.server))
        await stack.enter_async_context(sink(place.folder / "away.sock"))
        qemu = await stack.enter_async_context(Qemu(binary, place.folder, words, monitors=2, machine="q35"))
        await stack.enter_async_context(guarding(qemu.monitors[0], policy=policy, watch=0.01))
        behind = await stack.enter_async_context(connected(qemu.monitors[1]))
        await behind.ask("migrate-set-parameters", {"max-bandwidth": CRAWL})
        guard = place.folder / "guard.sock"
        players = [await stack.enter_async_context(Player(guard)) for _ in range(PLAYERS)]
        yield qemu, behind, players
