"""The mutations themselves: what is changed, what is not, and that each source can be compiled."""

from __future__ import annotations

import ast

from tests.labs.mutants.__main__ import known
from tests.labs.mutants.mutations import mutations

SOURCE = '''
"""Text."""
def f(a: int = 1, *, b: "str" = "é") -> bool:
    """More text."""
    log.info("é %s", 5)
    self.x = a
    if not a and b < 2:
        raise ValueError(3)
    return True
'''


def test_each_place_is_changed_once_and_text_for_people_never() -> None:
    found = list(mutations(SOURCE))
    assert [(each.line, each.before, each.after) for each in found] == [
        (3, "1", "2"),
        (6, "self.x = a", "pass"),
        (7, "not a and b < 2", "(not a or b < 2)"),
        (7, "not a", "(a)"),
        (7, "b < 2", "(b <= 2)"),
        (7, "2", "3"),
        (9, "True", "False"),
    ]
    for each in found:
        ast.parse(each.source)
        assert each.source != SOURCE


def test_every_known_survivor_has_a_reason() -> None:
    assert all(known().values())
