"""Where QEMU itself and the guard listen, and whether a request names such a socket.

QEMU can be made to connect to its own monitor: the connection waits in the listen backlog and becomes the monitor's
client when the present one has gone. Paths are compared by their last part, since QEMU and the guard may see different
directories, and links lead anywhere; ports are compared without their hosts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from qmpguard.policy.values import members

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpguard.wire.json import Value

#: a character device as ``query-chardev`` tells of it (chardev/char-socket.c: qemu_chr_compute_filename)
_LISTENS = re.compile(
    r"(?:disconnected:)?(?P<kind>unix|tcp|telnet|websocket|tn3270|vsock):(?P<at>.*?)"
    r"(?:,abstract=on)?(?:,tight=on)?,server=on"
)


def listening(answer: Value) -> frozenset[str]:
    """Return the names of the sockets at which QEMU listens, from ``query-chardev``.

    Raises `ValueError` for an answer of another form.
    """
    if not isinstance(answer, list):
        raise ValueError("the list of character devices is none")
    found = set()
    for entry in answer:
        match entry:
            case {"filename": str(filename)}:
                if (listens := _LISTENS.match(filename)) is not None:
                    is_path = listens["kind"] == "unix"
                    found.add(name_of(listens["at"]) if is_path else f":{listens['at'].rpartition(':')[2]}")
            case _:
                raise ValueError("a character device has no filename")
    return frozenset(found - {"", ":"})


def name_of(path: str) -> str:
    """Return the part of a socket's path by which it is compared: the last."""
    return path.rstrip("/").rpartition("/")[2]


def addresses(arguments: Value) -> tuple[str, ...]:
    """Return every text of a request that may be an address or hold one; raises `TooManyError`."""
    found: dict[str, None] = {}
    for key, value, _ in members(arguments):
        match value:
            case str() if key in ("port", "svc"):
                found[f":{value}"] = None
            case str():
                found[unquote(value)] = None
            case int() if key in ("port", "svc"):
                found[f":{value}"] = None
            case _:
                pass
    return tuple(found)


def named(texts: Iterable[str], sockets: frozenset[str]) -> str | None:
    """Return the first of these sockets that one of the texts names; None where none does."""
    return next((socket for text in texts for socket in sorted(sockets) if _names(text, socket)), None)


def _names(text: str, socket: str) -> bool:
    if socket.startswith(":"):  # a port ends where its digits do
        return re.search(rf"{re.escape(socket)}(?!\d)", text) is not None
    return socket in text
