"""The manual page and the completions: those that ship are those of the parser, and the programs that read them can."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from qmpguard.cli import parser
from qmpguard.manual.__main__ import files, main
from qmpguard.manual.page import EXAMPLES
from qmpguard.manual.tree import tree
from qmpguard.policy.rules import table
from qmpguard.settings.options import CONFIG, OPTIONS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/qmpguard.1"
FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_what_ships_is_what_the_parser_says(name: str) -> None:
    assert (ROOT / name).read_text() == FILES[name], "make docs"


def test_the_files_are_written_where_they_belong(tmp_path: Path) -> None:
    main(str(tmp_path))
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(FILES)


def lines(*command: str) -> list[str]:
    """What a program prints, line by line; it must not complain."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def shell(*command: str) -> list[str]:
    """What a program prints, word by word."""
    return " ".join(lines(*command)).split()


def test_the_page_is_clean_roff_and_names_every_option_and_rule() -> None:
    assert shell("groff", "-man", "-ww", "-z", str(PAGE)) == []
    words = shell("groff", "-man", "-Tascii", "-P-cbou", "-rHY=0", str(PAGE))
    for name in [row[0] for row in table()] + [a.long for c in tree(parser()).commands for a in c.options]:
        assert any(name in word for word in words), name


def test_the_page_says_how_each_command_is_called() -> None:
    lines = [" ".join(line.split()) for line in manual("SYNOPSIS", "DESCRIPTION").splitlines()]
    assert "qmpguard exec [options] -- QEMU [argument ...]" in lines
    assert "qmpguard explain --machine FILE|ADDR [options] COMMAND" in lines
    assert "qmpguard status [options] [ADMIN]" in lines


def test_the_page_names_every_variable_and_exit_code() -> None:
    environment = manual("ENVIRONMENT", "SIGNALS")
    assert all(option.variable in environment for option in (CONFIG, *OPTIONS))
    codes = manual("EXIT STATUS", "FILES").split()
    assert {"0", "1", "2", "69", "70", "74", "78", "130", "141", "143"} <= set(codes)


@pytest.mark.parametrize("line", [line for line, _ in EXAMPLES])
def test_the_examples_of_the_page_are_commands(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "qmpguard"
    parser().parse_args(words)


def manual(section: str, until: str) -> str:
    """A section of the page as it is read."""
    text = "\n".join(lines("groff", "-man", "-Tascii", "-P-cbou", "-rHY=0", "-rLL=200n", str(PAGE)))
    return text[text.index(f"\n{section}\n") : text.index(f"\n{until}\n")]


def test_an_option_is_told_in_one_spelling() -> None:
    told = {a.long for c in tree(parser()).commands for a in c.options if "type" in a.long}
    assert told == {"--extra-types"}
    assert parser(["check"]).parse_args(["check", "--extra-type", "x", "addr"]).extra_types == ["x"]


BASH = f"""
source {ROOT}/completions/qmpguard.bash
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_qmpguard
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["ru"], ["run", "rules"]),
        (["run", "--qemu-"], ["--qemu-listen"]),
        (["run", "--qemu", ""], []),  # bash goes on with files
        (["run", "--mode", "warn", "--lis"], ["--listen"]),
        (["config", ""], ["check", "show", "schema", "--help"]),
        (["config", "show", "--lis"], ["--listen"]),
        (["run", "--mode", ""], ["enforce", "warn"]),
        (["run", "--mode", "="], ["enforce", "warn"]),  # bash takes '=' for a word of its own
        (["run", "--mode", "=", "w"], ["warn"]),
        (["exec", "--role", "ob"], ["observer"]),
        (["run", "--log-level", "d"], ["debug"]),
        (["run", "--rules", "hmp"], ["hmp-write=enforce", "hmp-write=warn", "hmp-write=off"]),
        (["run", "--rules", "hmp-write", "="], ["enforce", "warn", "off"]),
        (["run", "--rules", "hmp-write", "=", "o"], ["off"]),
        (["check", "--mode", "o"], ["off"]),
        (["override", "--rule", "hmp"], ["hmp-write"]),
        (["tail", "--kinds", "dr"], ["drift"]),
    ],
)
def test_bash_offers_what_fits(typed: list[str], offered: list[str]) -> None:
    assert shell("bash", "-c", BASH, "bash", "qmpguard", *typed) == offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("ru", {"run", "rules"}),
        ("run --lis", {"--listen"}),
        ("config ", {"check", "show", "schema"}),
        ("run --profile s", {"standard", "strict"}),
        ("override --rule hmp", {"hmp-write"}),
    ],
)
def test_fish_offers_what_fits(typed: str, offered: set[str]) -> None:
    script = f"source {ROOT}/completions/qmpguard.fish; complete -C 'qmpguard {typed}' | string split -f1 \\t"
    word = typed.rpartition(" ")[2]  # fish 4 also offers what merely contains the letters
    assert {found for found in shell("fish", "--no-config", "-c", script) if found.startswith(word)} == offered


#: zsh's own functions work in an editor only: these print what they are given
ZSH = f"""
_describe() {{ print -l -- "${{(@)${{(P)2}}%%:*}}" }}
_files() {{ print files }}
compadd() {{ print -l -- "${{@[2,-1]}}" }}
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
        (["run", "--absent", ""], ["refuse", "wait"]),
        (["tail", "--kinds", ""], ["decision", "drift", "link", "override", "event"]),
    ],
)
def test_zsh_offers_what_fits(typed: list[str], offered: list[str]) -> None:
    assert shell("zsh", "-f", "-c", ZSH, "zsh", "qmpguard", *typed) == offered
