"""The way of one query through the guard's files stays short, and its script counts rightly."""

from __future__ import annotations

from benchmarks.walk import Step, Walk, walked

#: calls into another file than that of the call before; a newcomer follows each of them
MOST = 35


async def test_a_query_takes_few_moves_between_files() -> None:
    walk = await walked()
    functions = [step.function for step in walk.calls]
    assert {"Session.data_received", "Hub.route_all", "Gate.read", "Link.send", "Hub.on_reply"} <= set(functions)
    assert walk.moves <= MOST, f"{walk.moves} moves: see python -m benchmarks.walk"


def test_a_move_is_a_call_into_another_file_and_a_return_counts_apart() -> None:
    walk = Walk()
    walk.steps = [
        Step("a.py", "f", 0, is_call=True),
        Step("b.py", "g", 1, is_call=True),
        Step("a.py", "f", 0, is_call=False),
        Step("a.py", "h", 1, is_call=True),
    ]
    assert (len(walk.calls), walk.files, walk.moves, walk.moves_with_returns) == (3, ["a.py", "b.py"], 2, 2)
