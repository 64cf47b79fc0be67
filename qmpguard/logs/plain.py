"""Text from outside, sanitized for one line of the log: no control characters, no megabytes, no forged fields.

A text from a client, from QEMU or from a file may hold anything. It is cut, unprintable characters are escaped, and a
text that looks like a field of the guard (``name=value``) is quoted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator
    from typing import TypeGuard

#: characters of one value in a line; as long as the longest text of a verdict
MAX_VALUE = 1000
#: characters of a line: a verdict has at most three long texts
MAX_LINE = 4000
#: a number with more bits is not written: no counter is that large, and Python refuses numbers of 4,300 digits
MAX_BITS = 256

#: the root of the guard's own loggers
PACKAGE = "qmpguard"
#: one conversion of a %-format, or one literal field, with the name of the field
_PART = re.compile(r"(?:(\w+)=)?%(?:%|[#0+ -]*\d*(?:\.\d+)?([a-zA-Z]))|(\w+)=([^\s%;,]+)")
#: a value that needs no quotes
_PLAIN = re.compile(r"[\w./:@+,\[\]~-]+")
#: the prefix of a line about one VM, formatted by the caller
_LABEL = re.compile(r"(vm)=([\w./:@+,\[\]~-]+) ")
#: the beginning of a field
_FIELD = re.compile(r"\w=")
#: conversions of numbers
_NUMERIC = frozenset("diouxXeEfFgG")


def cut(text: str, length: int = MAX_VALUE) -> str:
    """Return a text, cut to ``length`` characters and an ellipsis."""
    return text if len(text) <= length else f"{text[:length]}..."


def escaped(text: str) -> str:
    """Return a text with every unprintable character as a Python escape (`str.isprintable`).

    These are control characters, line and paragraph separators, bidirectional controls and surrogates.
    """
    return text if text.isprintable() else "".join(map(_escape, text))


def rendered(record: logging.LogRecord) -> str:
    """Return a record's message on one line. Never raises."""
    try:
        return cut(escaped(_message(record)), MAX_LINE)
    except Exception as error:  # noqa: BLE001 -- a formatting error must not reach the caller
        return f"a line of the log cannot be written: {type(error).__name__}: {cut(ascii(record.msg))}"


def fields(record: logging.LogRecord) -> dict[str, str | int | float]:
    """Return a record's ``name=value`` fields, by the names in its format. Never raises."""
    try:
        return dict(_fields(record))
    except Exception:  # noqa: BLE001 -- as above; the message itself reports the error
        return {}


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _message(record: logging.LogRecord) -> str:
    template = str(record.msg)
    if not record.args:
        text = cut(template, MAX_LINE)
        return text if _is_ours(record) or not _FIELD.search(text) else repr(text)
    if not isinstance(record.args, tuple):
        return cut(record.getMessage(), MAX_LINE)
    values = iter(record.args)
    text = _PART.sub(lambda part: _filled(part, values), template)
    if next(values, values) is not values:
        raise TypeError("more arguments than conversions in the format")
    return text


def _filled(part: re.Match[str], values: Iterator[object]) -> str:
    """Return the text of one part of a format."""
    name, kind, literal, _ = part.groups()
    if literal is not None:
        return part[0]
    before = f"{name}=" if name else ""
    if not kind:
        return f"{before}%"
    value = next(values)
    if kind in _NUMERIC and _is_number(value):
        return before + part[0][len(before) :] % value
    if isinstance(value, str) and _label(part, value):
        return value
    return before + _text(value, kind, is_field=bool(name))


def _text(value: object, kind: str, *, is_field: bool) -> str:
    if kind == "r":
        return repr(cut(value)) if isinstance(value, str) else cut(repr(value))
    text = _plain_text(value)
    if is_field:
        return text if _PLAIN.fullmatch(text) else repr(text)
    return repr(text) if _FIELD.search(text) and not _has_fields(value) else text


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, str | int | float]]:
    values = iter(record.args if isinstance(record.args, tuple) else ())
    if not _is_ours(record) or getattr(record, "bare", False):
        return
    for part in _PART.finditer(str(record.msg)):
        name, kind, literal, text = part.groups()
        if literal:
            yield literal, text
        elif kind:
            value = next(values)
            if isinstance(value, str) and (label := _label(part, value)):
                yield label[1], label[2]
            elif name:
                yield name, value if isinstance(value, int | float) and _is_number(value) else _plain_text(value)


def _is_ours(record: logging.LogRecord) -> bool:
    """Say whether a record's format is the guard's own. A library's format may hold text from outside already."""
    return record.name.partition(".")[0] == PACKAGE or getattr(record, "bare", False)


def _label(part: re.Match[str], value: str) -> re.Match[str] | None:
    """Return the label that a line begins with, where a value is one. Elsewhere a label could be forged."""
    return _LABEL.fullmatch(value) if part.start() == 0 and part[0] == "%s" else None


def _plain_text(value: object) -> str:
    return f"a number of {value.bit_length()} bits" if _is_large(value) else cut(str(value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not _is_large(value)


def _is_large(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and value.bit_length() > MAX_BITS


def _has_fields(value: object) -> bool:
    """Say whether an object's text consists of fields of the guard: its class has HAS_FIELDS."""
    return getattr(type(value), "HAS_FIELDS", False) is True
