"""A walk through the values in the arguments of a request, and in their `json:` file names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.wire.framing import Framer, Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpguard.wire.json import Value

#: values of one request that are read: a whole backing chain has some hundred
MAX_VALUES = 16384


class TooManyValuesError(Exception):
    """A request has more than `MAX_VALUES` values."""


def walk_members(value: Value) -> Iterator[tuple[str, Value, dict[str, Value] | None]]:
    """Yield (key, value, object) for every member of every object in a value, and ("", entry, None) for texts in lists.

    A text that begins with `json:` is a file name that QEMU parses as an object (block.c: parse_json_protocol). Its
    members are yielded too. Raises `TooManyValuesError`.
    """
    left, count = [value], 0
    while left:
        match left.pop():
            case dict() as options:
                count += len(options)
                left.extend(options.values())
                yield from ((key, entry, options) for key, entry in options.items())
            case list() as entries:
                count += len(entries)
                left += entries
                yield from (("", entry, None) for entry in entries if isinstance(entry, str))
            case str(text) if text.startswith("json:"):
                left.append(_parsed(text.removeprefix("json:")))
            case _:
                pass
        if count > MAX_VALUES:
            raise TooManyValuesError


def _parsed(text: str) -> Value:
    """Return the value of a JSON text in QEMU's dialect; None where QEMU could not parse it either."""
    framer = Framer()
    framer.feed(text.encode(errors="replace") + b"\n")
    item = framer.pull_whole()
    return item.value if isinstance(item, Message) else None
