"""The walk through a request's arguments: every member of every object, at any depth, up to a limit."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.argument_values import MAX_VALUES, TooManyValuesError, walk_members


def found(value: Any) -> list[tuple[str, Any]]:
    """Return what the walk finds, without the objects, in one order."""
    return sorted(((key, entry) for key, entry, _ in walk_members(value)), key=str)


@pytest.mark.parametrize(
    ("value", "result"),
    [
        (None, []),
        (5, []),
        ("text", []),
        ({}, []),
        ({"a": 1}, [("a", 1)]),
        (["x", 5, ["y"]], [("", "x"), ("", "y")]),
        ({"a": {"b": {"c": 1}}}, [("a", {"b": {"c": 1}}), ("b", {"c": 1}), ("c", 1)]),
        ({"a": [{"b": 1}]}, [("a", [{"b": 1}]), ("b", 1)]),
        ("json:{'driver': 'nvme'}", [("driver", "nvme")]),
        ("json:{'file': 'json:{\\'driver\\': \\'nvme\\'}'}", [("driver", "nvme"), ("file", "json:{'driver': 'nvme'}")]),
        ({"f": "json:not"}, [("f", "json:not")]),
        ("json:", []),
        ("json:{'a': 1} {'b': 2}", [("a", 1)]),
        ("json:\ud800", []),
    ],
    ids=str,
)
def test_every_member_is_found(value: Any, result: list[tuple[str, Any]]) -> None:
    assert found(value) == sorted(result, key=str)


def test_a_member_comes_with_the_object_that_it_is_in() -> None:
    inner: dict[str, Any] = {"b": 1}
    assert [(key, options) for key, _, options in walk_members({"a": inner})] == [("a", {"a": inner}), ("b", inner)]


@pytest.mark.parametrize("size", [MAX_VALUES, MAX_VALUES + 1])
@pytest.mark.parametrize("kind", ["objects", "lists", "texts"])
def test_more_values_than_are_looked_through_are_too_many(kind: str, size: int) -> None:
    value: Any = {
        "objects": {str(i): i for i in range(size)},
        "lists": [0] * size,
        "texts": "json:[" + "0," * (size - 1) + "0]",
    }[kind]
    if size <= MAX_VALUES:
        list(walk_members(value))
        return
    with pytest.raises(TooManyValuesError):
        list(walk_members(value))


def test_depth_is_no_limit() -> None:
    value: Any = {"driver": "nvme"}
    for _ in range(5000):
        value = [value]
    assert found(value) == [("driver", "nvme")]
