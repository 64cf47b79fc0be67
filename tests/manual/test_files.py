"""The manual page and the completions: those that ship are those of the parser, and the programs that read them can."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qmpguard.cli import parser
from qmpguard.manual.__main__ import files, main
from qmpguard.manual.tree import tree
from qmpguard.policy.rules import table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/qmpguard.1"
FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_what_ships_is_what_the_parser_says(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name], "make docs"


def test_the_files_are_written_where_they_belong(tmp_path: Path) -> None:
    main(str(tmp_path))
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(FILES)


def shell(*command: str, text: str = "") -> list[str]:
    """What a program prints, word by word; it must not complain."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_the_page_is_clean_roff_and_names_every_option_and_rule() -> None:
    assert shell("groff", "-man", "-ww", "-z", str(PAGE)) == []
    words = shell("groff", "-man", "-Tascii", "-P-cbou", "-rHY=0", str(PAGE))
    for name in [row[0] for row in table()] + [a.long for c in tree(parser()).commands for a in c.options]:
        assert any(name in word for word in words), name


BASH = f"""
source {ROOT}/completions/qmpguard.bash
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_qmpguard
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["r"], ["run", "rules"]),
        (["run", "--qemu-"], ["--qemu-listen"]),
        (["run", "--qemu", ""], []),  # bash goes on with files
        (["run", "--mode", "warn", "--lis"], ["--listen"]),
        (["config", ""], ["check", "show", "schema", "--help"]),
        (["config", "show", "--lis"], ["--listen"]),
    ],
)
def test_bash_offers_what_fits(typed: list[str], offered: list[str]) -> None:
    assert shell("bash", "-c", BASH, "bash", "qmpguard", *typed) == offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("r", {"run", "rules"}), ("run --lis", {"--listen"}), ("config ", {"check", "show", "schema"})],
)
def test_fish_offers_what_fits(typed: str, offered: set[str]) -> None:
    script = f"source {ROOT}/completions/qmpguard.fish; complete -C 'qmpguard {typed}' | string split -f1 \\t"
    word = typed.rpartition(" ")[2]  # fish 4 also offers what merely contains the letters
    assert {found for found in shell("fish", "--no-config", "-c", script) if found.startswith(word)} == offered


#: zsh's own functions work in an editor only: these print what they are given
ZSH = f"""
_describe() {{ print -l -- "${{(@)${{(P)2}}%%:*}}" }}
_files() {{ print files }}
compdef() {{ }}
source {ROOT}/completions/_qmpguard
words=("$@") CURRENT=$#
_qmpguard
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["config", ""], ["check", "show", "schema", "--help"]),
        (["config", "check", ""], ["files", "--help"]),
        (["run", "--qemu", ""], ["files"]),
    ],
)
def test_zsh_offers_what_fits(typed: list[str], offered: list[str]) -> None:
    assert shell("zsh", "-f", "-c", ZSH, "zsh", "qmpguard", *typed) == offered
