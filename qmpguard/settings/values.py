"""What single settings may be: each reader turns an `Item` into a value, or says what would be right."""

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

#: characters of a VM's name, which stands in logs and in the paths of the admin interface
MAX_NAME = 128
_NAME = re.compile(r"[^\s/\x00-\x1f\x7f]+")
_OCTAL = re.compile(r"0?[0-7]{3}")
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


def text(item: Item) -> str:
    """Return a text that is not empty."""
    if not isinstance(item.value, str) or not item.value:
        raise item.wrong("it is a text in quotes" if not item.words else "it must not be empty")
    _plain(item, item.value)
    return item.value


def _plain(item: Item, value: str) -> None:
    """Raise the error of a text with a zero byte, which no path, host or name of a user can have."""
    if "\0" in value:
        raise item.wrong("there must be no zero byte in it")


def name(item: Item) -> str:
    """Return a VM's name."""
    value = text(item)
    if not _NAME.fullmatch(value) or len(value) > MAX_NAME or not _is_unicode(value):
        raise item.wrong(f"a name has no spaces and no '/', and at most {MAX_NAME} characters")
    return value


def _is_unicode(value: str) -> bool:
    """Say whether a text can be written as UTF-8; bytes of the command line that are none come as half characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def address(item: Item) -> Address:
    """Return an address; in a file a unix socket's path is an absolute one."""
    return _address(item, parse_address)


def listen_address(item: Item) -> ListenAddress:
    """Return an address to listen at, which may be a socket that the service manager passes."""
    return _address(item, parse_listen_address)


def _address(item: Item, parse: Callable[[str], A]) -> A:
    try:
        found = parse(text(item))
    except UsageError as error:
        raise item.wrong(_without_text(str(error), item.value)) from None
    if isinstance(found, UnixAddress) and not item.words and not found.path.startswith("/"):
        raise item.wrong("the path of a socket is an absolute one here")
    return found


def socket_path(item: Item) -> str:
    """Return the path of a unix socket."""
    match address(item):
        case UnixAddress(path):
            return path
        case _:
            raise item.wrong("it is the path of a unix socket")


def path(item: Item) -> str:
    """Return a path; an absolute one, since nobody remembers where a service was started."""
    value = text(item)
    if not item.words and not Path(value).is_absolute():
        raise item.wrong("it is an absolute path")
    return str(Path(value).absolute())


def flag(item: Item) -> bool:
    """Return whether something is on."""
    if isinstance(item.value, bool):
        return item.value
    word = str(item.value).lower() if item.words else None
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise item.wrong("it is true or false")


@dataclass(frozen=True, slots=True)
class Seconds:
    """A reader of seconds, more than ``low`` and at most ``high``; ``zero`` says what 0 means, where it may be 0."""

    low: float
    high: float
    zero: str = ""

    def __call__(self, item: Item) -> float:
        """Return the seconds."""
        value = _number(item)
        if value is None or not (self.low < value <= self.high or (self.zero and value == 0)):
            also = f", or 0: {self.zero}" if self.zero else ""
            raise item.wrong(f"it is a number of seconds, more than {self.low:g} and at most {self.high:g}{also}")
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
            raise item.wrong(f"it is a whole number from {self.low} to {self.high}")
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
        raise item.wrong(f"it is {_either([str(member.value) for member in self.members])}")


def choice(kind: type[E], *members: E) -> Choice[E]:
    """Return a reader of an enumeration; ``members``: those that may be chosen, all if there are none."""
    return Choice(members or tuple(kind))


def names(item: Item) -> tuple[str, ...]:
    """Return a list of names: in a file an array, in a flag with commas between them."""
    if item.words:
        _plain(item, str(item.value))
        return tuple(part.strip() for part in str(item.value).split(",") if part.strip())
    if not isinstance(item.value, list) or not all(isinstance(part, str) and part for part in item.value):
        raise item.wrong('it is a list of texts, as in ["one", "two"]')
    for part in item.value:
        _plain(item, part)
    return tuple(item.value)


def file_mode(item: Item) -> int:
    """Return the permissions of a file. They are a text: a number without quotes would be a decimal one."""
    if not isinstance(item.value, str) or not _OCTAL.fullmatch(item.value):
        raise item.wrong('permissions are octal digits in quotes, as in "0660"')
    return int(item.value, 8)


def _number(item: Item) -> float | None:
    if isinstance(item.value, str) and item.words:
        try:
            return float(item.value)
        except ValueError:
            return None
    if isinstance(item.value, int | float) and not isinstance(item.value, bool):
        return item.value
    return None


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _without_text(message: str, value: object) -> str:
    """Return an address's error without the text itself, with which the item's own begins already."""
    return message.removeprefix(f"{value!r}: ").removeprefix(f"{value!r} ")
