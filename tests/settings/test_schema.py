"""The schema of a configuration file: it says of a file what reading it says, as far as a schema can."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from qmpguard.errors import ConfigError
from qmpguard.settings.read import read_file
from qmpguard.settings.schema import schema
from tests.docs.test_configuration import whole
from tests.settings.test_read import FULL, VM, WRONG

ROOT = Path(__file__).parents[2]
SCHEMA = schema()
#: what is right about each value, and wrong about several together or about this machine
BEYOND = (
    "in [policy.rules]: did you",  # it may be a rule of the configuration's own
    "on this machine",
    "a TCP client has no user or group",
    "TCP needs token_file",
    "is taken already",
    "65534 is the id of every user",
    "a TCP address is written",
    "longer than the 107 bytes",
)


def finds(text: str) -> bool:
    """Say whether an editor would mark something."""
    return any(jsonschema.Draft7Validator(SCHEMA).iter_errors(tomllib.loads(text)))


def test_the_file_that_ships_is_that_of_the_tables() -> None:
    assert json.loads((ROOT / "examples/qmpguard.schema.json").read_text()) == SCHEMA, "make docs"


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("text", [FULL, VM, whole()], ids=["full", "least", "example"])
def test_what_can_be_used_is_not_marked(text: str) -> None:
    assert not finds(text)


def parsed(text: str) -> bool:
    try:
        tomllib.loads(text)
    except ValueError:
        return False
    return True


CASES = [(text, says) for text, says in WRONG if parsed(text) and not any(part in says for part in BEYOND)]


@pytest.mark.parametrize("text", [text for text, _ in CASES], ids=[says for _, says in CASES])
def test_what_cannot_be_used_is_marked(text: str) -> None:
    assert finds(text)


@pytest.mark.parametrize(
    "row",
    [
        'id = "a-b"\ncapability = "x-colo"\nparameter = "mode"\nvalue = "normal"\nmessage = "m"',
        'id = "a-b"\nparameter = "mode"\nmessage = "m"',
        'id = "A"\ncapability = "x-colo"\nmessage = "m"',
        'id = "a-b"\ncapability = "x-colo"\nmessage = "m"\nat = ["never"]',
        'capability = "x-colo"\nmessage = "m"',
    ],
)
def test_a_combination_that_cannot_be_used_is_marked(tmp_path: Path, row: str) -> None:
    text = f"[[policy.combination]]\n{row}\n{VM}"
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_file(str(path))
    assert finds(text)


def test_every_key_says_what_it_means() -> None:
    """A policy of one VM is the policy of all, and is told once."""
    vm = SCHEMA["properties"]["vm"]["items"]["properties"]  # type: ignore[index]
    assert vm["policy"] == {"$ref": "#/properties/policy"}
    assert all(key.get("description") for name, key in vm.items() if name != "policy")
    assert vm["absent"]["enum"] == ["refuse", "wait"]
    assert vm["survey_timeout"]["default"] == 60
