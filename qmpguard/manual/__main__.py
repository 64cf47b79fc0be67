"""Write what comes from parser and docstrings below a directory: ``python -m qmpguard.manual [DIRECTORY]``."""

from __future__ import annotations

import sys
from pathlib import Path

from qmpguard.cli import parser
from qmpguard.manual import api, glossary
from qmpguard.manual.completion import bash, fish, zsh
from qmpguard.manual.offers import offers
from qmpguard.manual.page import page
from qmpguard.manual.tree import tree


def files() -> dict[str, str]:
    """Return the text of each generated file, by its path."""
    top = tree(parser(), offers=offers())
    return {
        "docs/qmpguard.1": page(top),
        "docs/api.md": api.page(),
        "docs/glossary.md": glossary.page(),
        "completions/qmpguard.bash": bash(top),
        "completions/_qmpguard": zsh(top),
        "completions/qmpguard.fish": fish(top),
    }


def main(directory: str = ".") -> None:
    """Write the files below a directory."""
    for name, text in files().items():
        path = Path(directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
