"""QEMU's schema, reduced to commands and the names of their arguments."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.schema import read_schema

SCHEMA: list[Any] = [
    {"name": "migrate", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
    {"name": "object-add", "meta-type": "command", "arg-type": "2", "ret-type": "0"},
    {"name": "quit", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "STOP", "meta-type": "event", "arg-type": "0"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "1", "meta-type": "object", "members": [{"name": "uri", "type": "str", "default": None}]},
    {
        "name": "2",
        "meta-type": "object",
        "members": [{"name": "id", "type": "str"}],
        "tag": "qom-type",
        "variants": [{"case": "a", "type": "1"}, {"case": "b", "type": "0"}],
    },
]


def test_commands_have_the_names_of_their_arguments_and_of_their_variants() -> None:
    schema = read_schema(SCHEMA)
    assert schema.commands == {"migrate", "object-add", "quit"}
    assert schema.arguments["migrate"] == {"uri"}
    assert schema.arguments["object-add"] == {"id", "uri"}
    assert schema.arguments["quit"] == frozenset()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        None,
        [5],
        [{"name": "x"}],
        [*SCHEMA, {"name": "0", "meta-type": "object", "members": [5]}],
        [*SCHEMA, {"name": "0", "meta-type": "object", "variants": [5]}],
        [*SCHEMA, {"name": "0", "meta-type": "object", "variants": [{"type": "0"}]}],
    ],
)
def test_anything_else_is_no_schema(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_schema(answer)
