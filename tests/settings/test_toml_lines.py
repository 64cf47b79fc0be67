"""Where keys stand. A table of documents, and every document of it with line ends of both kinds."""

from __future__ import annotations

import tomllib

import pytest

from qmpguard.settings.toml_lines import Path, TomlLines

DOCUMENT = '''# a comment with [brackets] and = "quotes"
top = 1
[policy]  # the global one
mode = "warn"
rules = { vfio-postcopy = "off", new-monitor = "warn" } # = [
  [policy.more]
  "quoted key" = ["a", # [
    "]", 'x = 1',
  ]
  after = """
[vm]
name = "not a key \\""" of ours"
"""
a.b . "c d" = \'\'\'
[[vm]]\'\'\'

[[vm]]
name = "one"

[[ vm ]]
name = "two"
[vm.policy]
mode = 5
[[vm.inner]]
x = 1
[[vm.inner]]
x = 2
[end]'''

LINES: list[tuple[Path, int]] = [
    (("top",), 2),
    (("policy",), 3),
    (("policy", "mode"), 4),
    (("policy", "rules"), 5),
    (("policy", "rules", "vfio-postcopy"), 5),
    (("policy", "more"), 6),
    (("policy", "more", "quoted key"), 7),
    (("policy", "more", "after"), 10),
    (("policy", "more", "a"), 14),
    (("policy", "more", "a", "b", "c d"), 14),
    (("vm", 0), 17),
    (("vm", 0, "name"), 18),
    (("vm", 1), 20),
    (("vm", 1, "name"), 21),
    (("vm", 1, "policy"), 22),
    (("vm", 1, "policy", "mode"), 23),
    (("vm", 1, "inner", 0, "x"), 25),
    (("vm", 1, "inner", 1), 26),
    (("vm", 1, "inner", 1, "x"), 27),
    (("end",), 28),
    (("nowhere",), 1),
    (("vm", 1, "missing"), 20),
]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(("path", "line"), LINES, ids=str)
def test_the_line_of_a_key(path: Path, line: int, ending: str) -> None:
    text = DOCUMENT.replace("\n", ending)
    tomllib.loads(text)
    assert TomlLines(text).line(path) == line


@pytest.mark.parametrize("text", ["", "\n", "# only a comment", "a = 1", "[a]", "[[a]]", "a = []\n\n"])
def test_small_documents_end(text: str) -> None:
    tomllib.loads(text)
    assert TomlLines(text).line(("a",)) == 1
