"""One table of settings while it is read: each key is taken once, and a key that remains is unknown.

It is the same for a table of a file and for the options of a command. Each value is an `Item` with its origin and the
beginning of an error about it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qmpguard.errors import QmpguardError
    from qmpguard.settings.toml_lines import Path

T = TypeVar("T")

#: the origin of a default
DEFAULT = "default"
#: the least similarity (difflib) at which an unknown key counts as a misspelling of a missing one
SIMILARITY = 0.75


@dataclass(frozen=True, slots=True)
class Item:
    """A value with its origin. An error about it begins with ``place`` and ``written``.

    ``is_text``: every value is text, as in options.
    """

    value: object
    origin: str
    place: str
    written: str
    error_class: type[QmpguardError]
    is_text: bool = False

    def error(self, expected: str) -> QmpguardError:
        """Return the error that says which value is expected."""
        return self.error_class(f"{self.place}{self.written}: {expected}")


class Source(Protocol):
    """The source of settings: a file, or the command line with its environment."""

    def item(self, path: Path, value: object) -> Item:
        """Return a value with its origin."""
        ...

    def missing(self, path: Path) -> QmpguardError:
        """Return the error for a missing value."""
        ...

    def called(self, path: Path) -> str:
        """Return what a setting is called there, written or not: a key, or a flag."""
        ...


@dataclass(frozen=True, slots=True)
class EffectiveValue:
    """An effective value and its origin. ``read`` converts it; ``required``: it must be set."""

    key: str
    value: object
    origin: str
    read: Callable[[Item], object]
    required: bool


@dataclass(frozen=True, slots=True)
class Section:
    """The effective values of one table, in the order in which they are read."""

    path: Path
    values: list[EffectiveValue] = field(default_factory=list)

    @property
    def header(self) -> str:
        """How the table is headed in TOML."""
        return header(self.path)


class Table:
    """A table that is being read. Every effective value is appended to ``report``."""

    def __init__(self, source: Source, path: Path, values: Mapping[str, object], report: list[Section]) -> None:
        self._source = source
        self._path = path
        self._remaining = dict(values)
        self._keys: list[str] = []
        self._report = report
        self._section = Section(path)
        report.append(self._section)

    def take(self, key: str, read: Callable[[Item], T], default: T) -> T:
        """Return a value that ``read`` converts, or the default. Raises what ``read`` raises."""
        self._keys.append(key)
        if key in self._remaining:
            return self._read(key, read, required=False)
        self._section.values.append(EffectiveValue(key, default, DEFAULT, read, required=False))
        return default

    def require(self, key: str, read: Callable[[Item], T]) -> T:
        """Return a value that must be set. Raises the source's error where it is missing."""
        self._keys.append(key)
        if key not in self._remaining:
            raise self._did_you_mean(key) or self._source.missing((*self._path, key))
        return self._read(key, read, required=True)

    def has(self, key: str) -> bool:
        """Say whether a value is set and not taken yet."""
        return key in self._remaining

    def item(self, key: str) -> Item:
        """Return a value that is set, without taking it."""
        return self._source.item((*self._path, key), self._remaining[key])

    def called(self, key: str) -> str:
        """Return what another setting of this table is called, for an error: a key of a file, or a flag."""
        return self._source.called((*self._path, key))

    def table(self, key: str) -> Table:
        """Return a table in this one; an empty one where it is not set."""
        self._keys.append(key)
        return self._inner((*self._path, key), self._remaining.pop(key, {}))

    def tables(self, key: str) -> Iterator[Table]:
        """Yield the tables of an array of tables."""
        self._keys.append(key)
        path = (*self._path, key)
        values = self._remaining.pop(key, [])
        if not isinstance(values, list):
            raise self._source.item(path, values).error(f"write [[{key}]] above each of them")
        for number, value in enumerate(values):
            yield self._inner((*path, number), value)

    def reject_unknown(self, elsewhere: tuple[str, ...] = ()) -> None:
        """Raise an error for an unknown key; ``elsewhere``: more known keys for its hint."""
        known = sorted({*self._keys, *elsewhere})
        for key in self._remaining:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise self._unknown(key, hint)

    def _did_you_mean(self, missing: str) -> QmpguardError | None:
        close = get_close_matches(missing, self._remaining, n=1, cutoff=SIMILARITY)
        return self._unknown(close[0], f"did you mean {missing!r}?") if close else None

    def _unknown(self, key: str, hint: str) -> QmpguardError:
        item = self.item(key)
        header = item.origin if item.is_text else self._section.header
        where = f" in {header}" if header else ""
        return item.error_class(f"{item.place}unknown key {key!r}{where}: {hint}")

    def _inner(self, path: Path, value: object) -> Table:
        if not isinstance(value, dict):
            raise self._source.item(path, value).error("it is a table")
        return Table(self._source, path, value, self._report)

    def _read(self, key: str, read: Callable[[Item], T], *, required: bool) -> T:
        item = self.item(key)
        del self._remaining[key]
        value = read(item)
        self._section.values.append(EffectiveValue(key, value, item.origin, read, required))
        return value


def header(path: Path) -> str:
    """Return the TOML header of a table."""
    names = ".".join(key for key in path if isinstance(key, str))
    return f"[[{names}]]" if path and isinstance(path[-1], int) else f"[{names}]" if names else ""
