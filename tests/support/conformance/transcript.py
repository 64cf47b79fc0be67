"""What a client was sent, in a form in which two of them can be compared.

Two things are made equal and nothing else: the timestamps of events, and the order of the members of objects.
Spaces, escapes, the spelling of numbers and line ends stay as they came.
"""

from __future__ import annotations

import re
from functools import lru_cache

_TIMESTAMP = re.compile(r'"timestamp": \{"seconds": \d+, "microseconds": \d+\}')
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|, |[^"{}\[\],]+|.')
_CLOSING = {"{": "}", "[": "]"}


@lru_cache(256)  # a script may ask for the schema twenty times
def normal(message: str) -> str:
    """Return a message with its members in the order of the alphabet; what is no JSON comes back as it is.

    Without recursion: an id may be nested a thousand deep.
    """
    if '"event"' in message:
        message = _TIMESTAMP.sub('"timestamp": (a time)', message)
    outer: list[tuple[str, list[str]]] = []
    opening, items = "", [""]
    for token in _TOKEN.findall(message):
        if token in _CLOSING:
            outer.append((opening, items))
            opening, items = token, [""]
        elif token == ", " and opening:
            items.append("")
        elif opening and token == _CLOSING[opening]:
            text = opening + ", ".join(sorted(items) if opening == "{" else items) + token
            opening, items = outer.pop()
            items[-1] += text
        else:
            items[-1] += token
    return message if outer else ", ".join(items)


def messages(data: bytes) -> list[str]:
    """Cut what was received into messages, each in its normal form; a line end that QEMU does not use stays visible."""
    lines = data.decode("latin-1").split("\r\n")
    unfinished = [f"(no line end) {lines[-1]}"] if lines[-1] else []
    return [*map(normal, lines[:-1]), *unfinished]
