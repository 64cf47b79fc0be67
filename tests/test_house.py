"""How the package is laid out: each module has its own tests, and no file, class or folder grows past its limit.

All of it is read from the source. What is past a limit today stands in a table here with its size. It may shrink, and
not grow; what is within its limit again must leave the table.
"""

from __future__ import annotations

import ast
from collections import Counter
from itertools import combinations, groupby
from pathlib import Path
from typing import NamedTuple

import pytest

import qmpguard

PACKAGE = Path(qmpguard.__file__).parent
TESTS = Path(__file__).parent
#: all modules, by their paths below the package
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
#: the packages whose modules have a test file each
MIRRORED = ("wire", "policy", "proxy")

MAX_MODULES = 8  # in one folder of the proxy
MAX_LINES = 300  # in one file of the package


class Size(NamedTuple):
    """How large a class is."""

    attributes: int
    lines: int


MAX_CLASS = Size(attributes=15, lines=250)  # in the proxy

#: files that are too long, with their lines
LONG_FILES: dict[str, int] = {}
#: classes of the proxy that are too large
LARGE_CLASSES: dict[str, Size] = {}


def classes(module: Path) -> list[ast.ClassDef]:
    tree = ast.parse((PACKAGE / module).read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def attributes(found: ast.ClassDef) -> set[str]:
    """Return the names of a class's fields, and those that its methods bind on `self`."""
    targets = [node.target for node in found.body if isinstance(node, ast.AnnAssign)]
    fields = {target.id for target in targets if isinstance(target, ast.Name)}
    return fields | {node.attr for node in ast.walk(found) if isinstance(node, ast.Attribute) and binds_on_self(node)}


def binds_on_self(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"


def size_of(found: ast.ClassDef) -> Size:
    return Size(len(attributes(found)), (found.end_lineno or found.lineno) - found.lineno + 1)


def is_too_large(size: Size, limit: Size = MAX_CLASS) -> bool:
    return size.attributes > limit.attributes or size.lines > limit.lines


def differ_by_one_letter(one: str, other: str) -> bool:
    """Say whether changing, adding or leaving out one letter makes one name of the other."""
    short, long = sorted((one, other), key=len)
    if len(short) == len(long):
        return sum(a != b for a, b in zip(short, long, strict=True)) == 1
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def is_interface(module: Path) -> bool:
    """Say whether there is nothing in a module that could be run: its classes are protocols, and it has no function."""
    body = ast.parse((PACKAGE / module).read_text()).body
    protocols = [node for node in body if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)]
    code = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    return bool(code) and code == protocols


def mirror_of(module: Path) -> Path:
    """Return the place of a module's tests."""
    return TESTS / module.with_name(f"test_{module.name}")


def test_every_module_has_its_own_test_file() -> None:
    mirrored = [module for module in MODULES if module.parts[0] in MIRRORED and not is_interface(module)]
    assert {str(module) for module in mirrored if not mirror_of(module).exists()} == set()


def test_no_test_file_mirrors_a_module_that_is_gone_from_beside_it() -> None:
    """A folder of tests is a folder of the package, or one of those that test the whole."""
    whole = {"conformance", "deploy", "docs", "e2e", "labs", "model", "support"}
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    mirrors = {folder for folder in folders if folder.parts and folder.parts[0] not in whole}
    assert {str(folder) for folder in mirrors if not (PACKAGE / folder / "__init__.py").exists()} == set()


def test_no_folder_of_the_proxy_has_more_modules_than_one_can_keep_in_mind() -> None:
    folders = Counter(str(module.parent) for module in MODULES if module.parts[0] == "proxy")
    assert {folder: count for folder, count in folders.items() if count > MAX_MODULES} == {}


def test_no_file_is_too_long() -> None:
    lines = {str(module): len((PACKAGE / module).read_text().splitlines()) for module in MODULES}
    too_long = {module: count for module, count in lines.items() if count > MAX_LINES}
    assert too_long.keys() == LONG_FILES.keys()
    assert {module: count for module, count in too_long.items() if count > LONG_FILES[module]} == {}


def test_no_class_of_the_proxy_is_too_large() -> None:
    proxy = [found for module in MODULES if module.parts[0] == "proxy" for found in classes(module)]
    too_large = {found.name: size_of(found) for found in proxy if is_too_large(size_of(found))}
    assert too_large.keys() == LARGE_CLASSES.keys()
    assert {name: size for name, size in too_large.items() if is_too_large(size, LARGE_CLASSES[name])} == {}


def test_no_class_name_stands_twice() -> None:
    names = Counter(found.name for module in MODULES for found in classes(module))
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_no_two_modules_of_a_folder_differ_by_one_letter() -> None:
    folders = {
        folder: sorted(module.stem for module in found) for folder, found in groupby(MODULES, lambda m: m.parent)
    }
    pairs = [(folder, *pair) for folder, stems in folders.items() for pair in combinations(stems, 2)]
    assert [(str(folder), one, other) for folder, one, other in pairs if differ_by_one_letter(one, other)] == []


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [
        ("table", "tables", True),
        ("rule", "rate", False),
        ("gate", "rate", True),
        ("place", "pace", True),
        ("hub", "hub", False),
        ("schema", "schedule", False),
    ],
)
def test_names_that_are_easily_mistaken(one: str, other: str, *, differ: bool) -> None:
    assert differ_by_one_letter(one, other) is differ_by_one_letter(other, one) is differ


def test_attributes_are_fields_and_what_methods_bind() -> None:
    (found,) = [
        node
        for node in ast.parse("class A:\n  x: int\n  def f(self, o):\n    self.y, o.z = self.w, 1\n").body
        if isinstance(node, ast.ClassDef)
    ]
    assert attributes(found) == {"x", "y"}
    assert size_of(found) == Size(attributes=2, lines=4)
