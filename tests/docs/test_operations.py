"""What the operator's manual says is there: the rules, the files, the variables."""

from __future__ import annotations

import re
from pathlib import Path

from qmpguard.cli import parser
from qmpguard.manual.tree import tree
from qmpguard.policy.rules import table
from qmpguard.settings.options import CONFIG, OPTIONS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/operations.md").read_text()


def test_every_rule_is_explained_and_begins_with_what_the_code_says_of_it() -> None:
    parts = re.findall(r"^### `([\w-]+)`\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    explained = {rule: " ".join(text.split()) for rule, text in parts}
    assert list(explained) == [rule for rule, *_ in table()]
    for rule, _, _, does in table():
        assert explained[rule].startswith(does)
        assert "*Do:*" in explained[rule]


def test_every_file_that_it_names_is_there() -> None:
    named = re.findall(r"\]\((?!#|\w+:)([^)#]+)\)", TEXT)
    assert named
    for name in named:
        assert (ROOT / "docs" / name).exists(), name
    for name in re.findall(r"install \S+ \d+ (.+) /\S+$", TEXT, re.MULTILINE):
        for file in name.split():
            assert (ROOT / file).is_file(), file


def test_every_place_in_it_that_it_points_to_is_there() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in TEXT.splitlines() if line[:1] == "#"
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in headings


def test_every_variable_and_command_that_it_names_is_there() -> None:
    assert set(re.findall(r"QMPGUARD_\w+", TEXT)) <= {option.variable for option in (CONFIG, *OPTIONS)}
    commands = {command.name for command in tree(parser()).commands}
    assert set(re.findall(r"(?:`|^)qmpguard (\w+)", TEXT, re.MULTILINE)) <= commands
