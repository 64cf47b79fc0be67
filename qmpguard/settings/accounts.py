"""Users and groups by name or number. Names are looked up once, when the settings are read."""

from __future__ import annotations

import grp
import pwd
from typing import TYPE_CHECKING

from qmpguard.access import OVERFLOW
from qmpguard.settings.values import names, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.settings.table import Item

#: the largest id; chown(2) takes the next number as "no change"
MAX_ID = 2**32 - 2
#: digits of an id
MAX_DIGITS = 10


def users(item: Item) -> frozenset[int]:
    """Return the ids of a list of users."""
    return _ids(item, "user", lambda name: pwd.getpwnam(name).pw_uid)


def groups(item: Item) -> frozenset[int]:
    """Return the ids of a list of groups."""
    return _ids(item, "group", _gid)


def group(item: Item) -> int:
    """Return a group's id."""
    return _id(item, "group", text(item), _gid)


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _ids(item: Item, kind: str, look_up: Callable[[str], int]) -> frozenset[int]:
    listed = frozenset(_id(item, kind, name, look_up) for name in names(item))
    if not listed:
        raise item.error(f"an empty list would refuse every client; leave it out, or name a {kind}")
    if OVERFLOW in listed:
        raise item.error(f"{OVERFLOW} is the id of every user and group without an id here; it cannot be allowed")
    return listed


def _id(item: Item, kind: str, name: str, look_up: Callable[[str], int]) -> int:
    if name.isascii() and name.isdigit() and len(name) <= MAX_DIGITS and int(name) <= MAX_ID:
        return int(name)
    try:
        return look_up(name)
    except (KeyError, UnicodeError):
        raise item.error(f"there is no {kind} {name!r} on this machine; a number is possible, too") from None
    except (OSError, ValueError) as error:
        raise item.error(f"{kind} {name!r} cannot be looked up: {error}") from None
