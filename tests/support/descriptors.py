"""The descriptors of a process. Those that close while they are listed are left out, with the one that lists them."""

from __future__ import annotations

import os
from contextlib import suppress


def open_files(pid: int | str = "self") -> dict[int, str]:
    """Return what each open descriptor of a process stands for, by its number; raises `OSError` when it has ended."""
    found: dict[int, str] = {}
    for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 -- names are all that is wanted
        with suppress(FileNotFoundError):
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")  # noqa: PTH115 -- "socket:[1]" is no path
    return found


def open_sockets(pid: int | str = "self") -> set[str]:
    """Return the sockets that a process has open, each as ``socket:[INODE]``."""
    return {target for target in open_files(pid).values() if target.startswith("socket:")}


def opened_since(before: dict[int, str]) -> dict[int, str]:
    """Return what is open now and was not ``before``; what others close meanwhile (a late collector) does not count."""
    return dict(open_files().items() - before.items())
