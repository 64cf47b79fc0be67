"""The readers of single settings: each converts an `Item`, or raises its error with the expected form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from qmpguard.address import UnixAddress, parse_address, parse_listen_address
from qmpguard.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.address import Address, ListenAddress
    from qmpguard.settings.table import Item

A = TypeVar("A")
E = TypeVar("E", bound=Enum)

#: characters of a VM's name, which is in logs and in the paths of the admin interface
MAX_NAME = 128
_NAME = re.compile(r"[^\s/\x00-\x1f\x7f]+")
_OCTAL = re.compile(r"0?[0-7]{3}")
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


def text(item: Item) -> str:
    """Return a non-empty text."""
    if not isinstance(item.value, str) or not item.value:
        raise item.error("it is a text in quotes" if not item.is_text else "it must not be empty")
    _plain(item, item.value)
    return item.value


def _plain(item: Item, value: str) -> None:
    """Raise the error for a text with a zero byte, which no path, host or user name can have."""
    if "\0" in value:
        raise item.error("there must be no zero byte in it")


def name(item: Item) -> str:
    """Return a VM's name."""
    value = text(item)
    if not _NAME.fullmatch(value) or len(value) > MAX_NAME or not _is_unicode(value):
        raise item.error(f"a name has no spaces and no '/', and at most {MAX_NAME} characters")
    return value


def _is_unicode(value: str) -> bool:
    """Say whether a text can be encoded in UTF-8. Invalid bytes of the command line are surrogates (PEP 383)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def address(item: Item) -> Address:
    """Return an address; in a file a unix socket's path must be absolute."""
    return _address(item, parse_address)


def listen_address(item: Item) -> ListenAddress:
    """Return an address to listen at, which may be a socket from the service manager."""
    return _address(item, parse_listen_address)


def _address(item: Item, parse: Callable[[str], A]) -> A:
    try:
        found = parse(text(item))
    except UsageError as error:
        raise item.error(_without_text(str(error), item.value)) from None
    if isinstance(found, UnixAddress) and not item.is_text and not found.path.startswith("/"):
        raise item.error("the path of a socket must be absolute here")
    return found


def socket_path(item: Item) -> str:
    """Return the path of a unix socket."""
    match address(item):
        case UnixAddress(path):
            return path
        case _:
            raise item.error("it is the path of a unix socket")


def path(item: Item) -> str:
    """Return a path as an absolute one. In a file it must be absolute, since a service's directory is unknown."""
    value = text(item)
    if not item.is_text and not Path(value).is_absolute():
        raise item.error("it is an absolute path")
    return str(Path(value).absolute())


def flag(item: Item) -> bool:
    """Return a boolean."""
    if isinstance(item.value, bool):
        return item.value
    word = str(item.value).lower() if item.is_text else None
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise item.error("it is true or false")


@dataclass(frozen=True, slots=True)
class Seconds:
    """A reader of seconds, more than ``low`` and at most ``high``; ``zero`` is the meaning of 0, empty: not allowed."""

    low: float
    high: float
    zero: str = ""

    def __call__(self, item: Item) -> float:
        """Return the seconds."""
        value = _number(item)
        if value is None or not (self.low < value <= self.high or (self.zero and value == 0)):
            also = f", or 0: {self.zero}" if self.zero else ""
            raise item.error(f"it is a number of seconds, more than {self.low:g} and at most {self.high:g}{also}")
        return value


@dataclass(frozen=True, slots=True)
class Count:
    """A reader of whole numbers from ``low`` to ``high``."""

    low: int
    high: int

    def __call__(self, item: Item) -> int:
        """Return the number."""
        value = _number(item)
        if value is None or not self.low <= value <= self.high or value != int(value):
            raise item.error(f"it is a whole number from {self.low} to {self.high}")
        return int(value)


@dataclass(frozen=True, slots=True)
class Choice(Generic[E]):
    """A reader of one of some members of an enumeration."""

    members: tuple[E, ...]

    def __call__(self, item: Item) -> E:
        """Return the member."""
        for member in self.members:
            if member.value == item.value:
                return member
        raise item.error(f"it is {_either([str(member.value) for member in self.members])}")


def choice(kind: type[E], *members: E) -> Choice[E]:
    """Return a reader of an enumeration; ``members``: those that may be chosen, all if there are none."""
    return Choice(members or tuple(kind))


def names(item: Item) -> tuple[str, ...]:
    """Return a list of names: in a file an array, in an option separated by commas."""
    if item.is_text:
        _plain(item, str(item.value))
        return tuple(part.strip() for part in str(item.value).split(",") if part.strip())
    if not isinstance(item.value, list) or not all(isinstance(part, str) and part for part in item.value):
        raise item.error('it is a list of texts, as in ["one", "two"]')
    for part in item.value:
        _plain(item, part)
    return tuple(item.value)


def file_mode(item: Item) -> int:
    """Return the permissions of a file. They must be quoted: TOML would read the bare digits as decimal."""
    if not isinstance(item.value, str) or not _OCTAL.fullmatch(item.value):
        raise item.error('permissions are octal digits in quotes, as in "0660"')
    return int(item.value, 8)


def _number(item: Item) -> float | None:
    if isinstance(item.value, str) and item.is_text:
        try:
            return float(item.value)
        except ValueError:
            return None
    if isinstance(item.value, int | float) and not isinstance(item.value, bool):
        return item.value
    return None


def _either(is_text: list[str]) -> str:
    return is_text[0] if len(is_text) == 1 else f"{', '.join(is_text[:-1])} or {is_text[-1]}"


def _without_text(message: str, value: object) -> str:
    """Return an address's error without the address, since the item's error begins with it."""
    return message.removeprefix(f"{value!r}: ").removeprefix(f"{value!r} ")
