"""Descriptors that a request names by their numbers, and not by the names that `getfd` gave them.

QEMU takes a name that begins with a digit for a number (monitor/fds.c: monitor_fd_param). Where no monitor's command is
running, as in the threads that connect a network stream or an NBD client, it takes any integer, with white space and a
sign before it (util/qemu-sockets.c: socket_get_fd, qemu_strtoi). Such a number is a descriptor that QEMU holds already:
it may be the connection of its monitor. A back end that fails, or is removed, closes it, and QEMU gives the number to
the next descriptor that it opens or receives.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpguard.policy.argument_values import walk_members
from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

#: what strtol takes whole; a space at the end, which it refuses, counts too
_INTEGER = r"[ \t-\r]*[+-]?[0-9]+[ \t-\r]*"
_NUMBER = re.compile(_INTEGER)
#: a migration's URI
_URI = re.compile(f"fd:{_INTEGER}")
#: a socket's address, or an option of a character device in the text of a `guestfwd`
_STR = re.compile(rf"\A{_INTEGER}\Z|(?:\A|[:,-])fd={_INTEGER}(?:,|\Z)")


def numbered(arguments: Value) -> str | None:
    """Return the first argument that names a descriptor by its number; None where none does.

    Arguments of descriptors end in `fd` or `fds` (`vhostfd`, `sock-fds`); that of a socket's address is `str`. Lists in
    one text are separated by colons. Raises `TooManyValuesError`.
    """
    return next((key for key, value, _ in walk_members(arguments) if _names_one(key, value)), None)


def is_descriptor(argument: str) -> bool:
    """Say whether an argument, or a QOM property, is a descriptor or a list of them."""
    return _last_word(argument).endswith(("fd", "fds"))


def is_number(value: Value) -> bool:
    """Say whether a value is a number, or a list with one. QEMU up to 9.1 turns JSON's numbers into texts."""
    match value:
        case bool():
            return False
        case int() | Number():
            return True
        case str(text):
            return any(map(_NUMBER.fullmatch, text.split(":")))
        case list(entries):
            return any(is_number(entry) for entry in entries if not isinstance(entry, list))
        case _:
            return False


def _names_one(key: str, value: Value) -> bool:
    word = _last_word(key)
    if is_descriptor(word):
        return is_number(value)
    if not isinstance(value, str):
        return word == "str" and is_number(value)
    found = {"str": _STR.search, "uri": _URI.fullmatch}.get(word)
    return found is not None and found(value) is not None


def _last_word(key: str) -> str:
    """Return the last word of a dotted key that is no index: `server.str`, `fds.0`."""
    return next((word for word in reversed(key.split(".")) if not word.isdecimal()), "")
