"""The listening sockets of QEMU and of the guard, and the test whether a request names one of them.

A request can make QEMU connect to its own monitor. The connection waits in the listen backlog and becomes the monitor's
client when the present client disconnects. Paths are compared by their last component, since QEMU and the guard may see
different directories and links; ports are compared without their hosts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from qmpguard.policy.argument_values import walk_members

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpguard.wire.json import Value

#: a listening character device in ``query-chardev`` (chardev/char-socket.c: qemu_chr_compute_filename)
_LISTENS = re.compile(
    r"(?:disconnected:)?(?P<kind>unix|tcp|telnet|websocket|tn3270|vsock):(?P<at>.*?)"
    r"(?:,abstract=on)?(?:,tight=on)?,server=on"
)

#: what makes a name another one, before it or behind it
_OF_A_NAME = r"[\w.-]"


def listening_sockets(answer: Value) -> frozenset[str]:
    """Return the names of QEMU's listening sockets in the answer to ``query-chardev``. Raises `ValueError`."""
    if not isinstance(answer, list):
        raise ValueError("the character devices are not a list")
    found = set()
    for entry in answer:
        match entry:
            case {"filename": str(filename)}:
                if (listens := _LISTENS.match(filename)) is not None:
                    is_path = listens["kind"] == "unix"
                    found.add(socket_name(listens["at"]) if is_path else f":{listens['at'].rpartition(':')[2]}")
            case _:
                raise ValueError("a character device has no filename")
    return frozenset(found - {"", ":"})


def socket_name(path: str) -> str:
    """Return the last component of a socket's path, by which it is compared."""
    return path.rstrip("/").rpartition("/")[2]


def addresses(arguments: Value) -> tuple[str, ...]:
    """Return every text of a request that may be or contain an address. Raises `TooManyValuesError`."""
    found: dict[str, None] = {}
    for key, value, _ in walk_members(arguments):
        match value:
            case str() if key in ("port", "svc"):
                found[f":{value}"] = None
            case str():  # QEMU decodes some of them
                found[value] = found[unquote(value)] = None
            case int() if key in ("port", "svc"):
                found[f":{value}"] = None
            case _:
                pass
    return tuple(found)


def named_socket(texts: Iterable[str], sockets: frozenset[str]) -> str | None:
    """Return the first socket that one of the texts names; None where none does."""
    return next((socket for text in texts for socket in sorted(sockets) if _names(text, socket)), None)


def _names(text: str, socket: str) -> bool:
    name = re.escape(socket)
    if socket.startswith(":"):  # a port ends where its digits do
        return re.search(rf"{name}(?!\d)", text) is not None
    return socket in text and re.search(rf"(?<!{_OF_A_NAME}){name}(?!{_OF_A_NAME})", text) is not None
