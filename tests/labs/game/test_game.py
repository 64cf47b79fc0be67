"""A short game on each real QEMU; `make game` plays a long one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from tests.labs.game.moves import END, HIDE
from tests.labs.game.table import play
from tests.labs.game.watcher import Hidden

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]
ROUNDS, SEED = 40, 1


@pytest.mark.qemu
@pytest.mark.parametrize("binary", QEMUS)
async def test_no_client_reaches_what_must_never_be(tmp_path: Path, binary: Callable[[], Path]) -> None:
    game = await play(tmp_path, binary(), Policy(), ROUNDS, SEED)
    assert not game.is_lost, "\n".join(game.story)
    assert game.seen["refused"] > 0, "too tame a game to show anything"


@pytest.mark.qemu
@pytest.mark.parametrize("binary", QEMUS)
async def test_without_refusals_the_same_game_is_lost(tmp_path: Path, binary: Callable[[], Path]) -> None:
    game = await play(tmp_path, binary(), Policy(mode=Mode.WARN), 10 * ROUNDS, SEED)
    assert game.is_lost


DONE: Any = {"return": {}}
FAILED: Any = {"error": {}}


@pytest.mark.parametrize(
    ("rounds", "certain"),
    [
        ([[(HIDE, DONE)]], True),
        ([[(HIDE, DONE)], [(HIDE, FAILED)]], True),
        ([[(HIDE, DONE)], [(END, DONE)]], False),
        ([[(HIDE, DONE), (END, DONE)]], False),
        ([[(HIDE, None)]], False),
        ([[(HIDE, DONE)], [(END, None)]], False),
        ([[(HIDE, FAILED)]], False),
    ],
)
def test_a_hidden_primary_counts_where_the_replies_leave_no_doubt(rounds: list[Any], *, certain: bool) -> None:
    hidden = Hidden()
    for round_ in rounds:
        hidden.after(round_)
    assert hidden.is_certain is certain
