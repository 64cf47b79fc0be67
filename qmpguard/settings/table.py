"""One table of settings on its way to a `Config`: every key is taken once, and what is left over is unknown.

It is the same for a table of a file and for the options of a command: each value comes as an `Item`, which knows
where it was written and how an error about it begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from qmpguard.errors import QmpguardError
    from qmpguard.settings.places import Path

T = TypeVar("T")

#: where a value comes from that nobody has written
DEFAULT = "default"
#: from this likeness on (difflib), a key that is unknown is one that is missing, misspelt
ALIKE = 0.75


@dataclass(frozen=True, slots=True)
class Item:
    """A value as it was written.

    ``written`` is what an error about it repeats, behind ``place``; ``words``: everything is text, as in flags.
    """

    value: object
    origin: str
    place: str
    written: str
    fault: type[QmpguardError]
    words: bool = False

    def wrong(self, what: str) -> QmpguardError:
        """Return the error that says what a value should be."""
        return self.fault(f"{self.place}{self.written}: {what}")


class Origin(Protocol):
    """Where settings come from: a file, or the command line with its environment."""

    def item(self, path: Path, value: object) -> Item:
        """Return a value with the place it stands at."""
        ...

    def lacks(self, path: Path) -> QmpguardError:
        """Return the error that a value is missing."""
        ...

    def called(self, path: Path) -> str:
        """Return what a setting is called there, written or not: a key, or a flag."""
        ...


@dataclass(frozen=True, slots=True)
class Effective:
    """A value that holds, and where it comes from. ``read`` makes it from what is written; ``needed``: it must be."""

    key: str
    value: object
    origin: str
    read: Callable[[Item], object]
    needed: bool


@dataclass(frozen=True, slots=True)
class Section:
    """The values of one table, by their keys, in the order in which they are read."""

    path: Path
    values: list[Effective] = field(default_factory=list)

    @property
    def header(self) -> str:
        """How the table is headed in TOML."""
        return header(self.path)


class Table:
    """A table that is being read. Every value that was taken is noted in ``report``, for who wants to see it."""

    def __init__(self, source: Origin, path: Path, values: Mapping[str, object], report: list[Section]) -> None:
        self._source = source
        self._path = path
        self._left = dict(values)
        self._keys: list[str] = []
        self._report = report
        self._section = Section(path)
        report.append(self._section)

    def take(self, key: str, read: Callable[[Item], T], default: T) -> T:
        """Return a value as ``read`` makes it, or the default. Raises what ``read`` raises."""
        self._keys.append(key)
        if key in self._left:
            return self._read(key, read, needed=False)
        self._section.values.append(Effective(key, default, DEFAULT, read, needed=False))
        return default

    def need(self, key: str, read: Callable[[Item], T]) -> T:
        """Return a value that must be there."""
        self._keys.append(key)
        if key not in self._left:
            raise self._misspelt(key) or self._source.lacks((*self._path, key))
        return self._read(key, read, needed=True)

    def has(self, key: str) -> bool:
        """Say whether a value was written and not taken yet."""
        return key in self._left

    def item(self, key: str) -> Item:
        """Return a value that was written, without taking it."""
        return self._source.item((*self._path, key), self._left[key])

    def called(self, key: str) -> str:
        """Return what another setting of this table is called, for an error: a key of a file, or a flag."""
        return self._source.called((*self._path, key))

    def table(self, key: str) -> Table:
        """Return a table in this one; an empty one where it was not written."""
        self._keys.append(key)
        return self._inner((*self._path, key), self._left.pop(key, {}))

    def tables(self, key: str) -> Iterator[Table]:
        """Yield the tables of an array of tables."""
        self._keys.append(key)
        path = (*self._path, key)
        values = self._left.pop(key, [])
        if not isinstance(values, list):
            raise self._source.item(path, values).wrong(f"write [[{key}]] above each of them")
        for number, value in enumerate(values):
            yield self._inner((*path, number), value)

    def done(self, elsewhere: tuple[str, ...] = ()) -> None:
        """Raise an error where something is left that nobody knows; ``elsewhere``: more keys that may be meant."""
        known = sorted({*self._keys, *elsewhere})
        for key in self._left:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise self._unknown(key, hint)

    def _misspelt(self, missing: str) -> QmpguardError | None:
        close = get_close_matches(missing, self._left, n=1, cutoff=ALIKE)
        return self._unknown(close[0], f"did you mean {missing!r}?") if close else None

    def _unknown(self, key: str, hint: str) -> QmpguardError:
        item = self.item(key)
        header = item.origin if item.words else self._section.header
        where = f" in {header}" if header else ""
        return item.fault(f"{item.place}unknown key {key!r}{where}: {hint}")

    def _inner(self, path: Path, value: object) -> Table:
        if not isinstance(value, dict):
            raise self._source.item(path, value).wrong("it is a table")
        return Table(self._source, path, value, self._report)

    def _read(self, key: str, read: Callable[[Item], T], *, needed: bool) -> T:
        item = self.item(key)
        del self._left[key]
        value = read(item)
        self._section.values.append(Effective(key, value, item.origin, read, needed))
        return value


def header(path: Path) -> str:
    """Return how a table is headed in TOML."""
    names = ".".join(key for key in path if isinstance(key, str))
    return f"[[{names}]]" if path and isinstance(path[-1], int) else f"[{names}]" if names else ""
