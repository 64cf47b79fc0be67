"""The lines of the keys of a TOML document, which tomllib does not report.

It is only for documents that tomllib has accepted, so it does not check the syntax.
"""

from __future__ import annotations

import re
from typing import TypeAlias

#: keys from the top of the document; a number is an index in an array of tables
Path: TypeAlias = tuple[str | int, ...]

_PART = re.compile(r"""[ \t]*(?:([\w-]+)|"((?:[^"\\]|\\.)*)"|'([^']*)')[ \t]*""")
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_TOKEN = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*|[\[\]{}\n]|[^"'#\[\]{}\n]+''',
    re.DOTALL,
)


class TomlLines:
    """The lines of a document's keys and table headers, counted from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted = (0, 1)  # a position and its line, from which lines are counted on
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}  # the number of tables in each array of tables so far
        self._read()

    def line(self, path: Path) -> int:
        """Return the line of a key, or of the nearest table or key around it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _read(self) -> None:
        table: Path = ()
        while self._skip():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._note(table, self._key())
                self._value()

    def _skip(self) -> bool:
        """Skip white space and comments; False at the end."""
        blank = _BETWEEN.match(self._text, self._at)
        assert blank is not None
        self._at = blank.end()
        return self._at < len(self._text)

    def _header(self) -> Path:
        many = self._text.startswith("[[", self._at)
        self._at += 1 + many
        keys = self._key()
        path = self._within(keys[:-1]) + keys[-1:]
        if many:
            self._counts[path] = self._counts.get(path, 0) + 1
        path = self._latest(path)
        self._lines[path] = self._line()
        self._at = self._text.find("\n", self._at)
        if self._at < 0:
            self._at = len(self._text)
        return path

    def _within(self, keys: Path) -> Path:
        path: Path = ()
        for key in keys:
            path = self._latest((*path, key))
        return path

    def _latest(self, path: Path) -> Path:
        count = self._counts.get(path)
        return path if count is None else (*path, count - 1)

    def _note(self, table: Path, keys: Path) -> None:
        for length in range(1, len(keys) + 1):
            self._lines.setdefault(table + keys[:length], self._line())

    def _key(self) -> Path:
        """Read a dotted key."""
        parts: list[str] = []
        while (part := _PART.match(self._text, self._at)) is not None:
            parts.append(next(group for group in part.groups() if group is not None))
            self._at = part.end()
            if not self._text.startswith(".", self._at):
                break
            self._at += 1
        return tuple(parts)

    def _value(self) -> None:
        depth = 0
        while (token := _TOKEN.match(self._text, self._at)) is not None:
            self._at = token.end()
            depth += (token[0] in "[{") - (token[0] in "]}")
            if token[0] == "\n" and not depth:
                return

    def _line(self) -> int:
        at, line = self._counted
        line += self._text.count("\n", at, self._at)
        self._counted = (self._at, line)
        return line
