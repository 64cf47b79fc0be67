"""What the lab proves: a row is a promise, and the function that tries it in the lab and says what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.labs.vfio.host import Lab
    from tests.labs.vfio.machine import Release


class Broken(Exception):  # noqa: N818 -- a promise is
    """A promise that was not kept; the text is what was seen."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is tried: the lab, one of its QEMUs, and a folder here for sockets."""

    lab: Lab
    release: Release
    folder: Path


class Row(NamedTuple):
    """One promise. ``attempt`` raises `Broken` where it is not kept, and returns what was seen.

    ``fact``: it promises nothing; the text tells what QEMU does.
    """

    name: str
    promise: str
    attempt: Callable[[Place], Awaitable[str]]
    fact: bool = False
    seconds: float = 600.0


def broken(seen: object) -> NoReturn:
    """Say that a promise was not kept."""
    raise Broken(str(seen))


def expect(condition: object, seen: object) -> None:
    """Say that a promise was not kept unless a condition holds."""
    if not condition:
        broken(seen)
