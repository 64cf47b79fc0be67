"""docs/api.md and docs/glossary.md: nothing public and no class of the two layers is missing."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import qmpguard
from qmpguard.manual import api, glossary

PACKAGE = Path(qmpguard.__file__).parent


def test_the_interface_has_every_public_name_once() -> None:
    shown = [name for _, _, names in api.GROUPS for name in names]
    assert sorted(shown) == sorted(set(qmpguard.__all__) - {"__version__"})
    page = api.page()
    assert [name for name in shown if page.count(f"\n### `{name}`\n") != 1] == []


def test_every_public_class_function_property_and_method_has_a_docstring() -> None:
    for name in set(qmpguard.__all__) - {"__version__"}:
        value = getattr(qmpguard, name)
        assert inspect.getdoc(value), name
        members = vars(value).items() if isinstance(value, type) else ()
        assert [m for m, v in members if m[0] != "_" and isinstance(v, property) and not inspect.getdoc(v)] == []


def test_a_field_of_a_type_that_is_not_public_is_left_out() -> None:
    page = api.page()
    assert "\nseen: float | None\n" in page
    assert "\ncounts: " not in page  # its type, Counters, may change


@pytest.mark.parametrize("layer", glossary.LAYERS)
def test_the_glossary_has_every_class_with_a_meaning(layer: str) -> None:
    page = glossary.page()
    for path in (PACKAGE / layer).rglob("*.py"):
        module = path.relative_to(PACKAGE).as_posix()
        for name in re.findall(r"^\s*class (\w+)[(:]", path.read_text(), re.MULTILINE):
            assert re.search(rf"^\| `{name}` \| `{module}` \| \S.* \|$", page, re.MULTILINE), f"{module}: {name}"


def test_the_glossary_has_every_module() -> None:
    page = glossary.page()
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).as_posix()
        assert re.search(rf"^\| `{module}` \| \S.* \|$", page, re.MULTILINE), f"{module} has no docstring"


def test_each_word_has_a_meaning_of_its_own() -> None:
    assert len(set(glossary.WORDS.values())) == len(glossary.WORDS)
