"""The options on QEMU's command line that create a monitor, and so a way around the guard (QEMU: system/vl.c).

QEMU accepts options by their full names only, after one dash or two, with the value in the next word. Here every word
that looks like an option counts as one, even where it is the value of another. So no monitor is overlooked.

QEMU's default monitor is not among them, with -nographic or in a window's menu either: QEMU creates none when a -mon is
given, and the guard gives one.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: bytes that are read of a -readconfig file
MAX_FILE = 1 << 20

#: a character device in the legacy syntax with a monitor (chardev/char.c: qemu_chr_new_mux_mon): `mon:stdio`, or
#: `unix:/path,server=on,mux=on`.
_WITH_MONITOR = re.compile(r"^mon:|,mux(?!=(?:off|no|n|false)(?:,|$))(?:=|,|$)")
#: the same as the target of a guestfwd (net/slirp.c: slirp_guestfwd): `guestfwd=tcp:10.0.2.9:1-mon:stdio`
_FORWARDED = re.compile(r"guestfwd.*(?:-mon:|mux)", re.DOTALL)
#: a monitor object (QEMU 11.1), in its three spellings
_OBJECT = re.compile(r"""^monitor-|(?:^|,)qom-type=monitor-|['"]qom-type['"]\s*:\s*['"]monitor-""")
#: a section of a -readconfig file that creates a monitor, or may
_SECTION = re.compile(r"""^\s*\[\s*mon\b|^\s*qom-type\s*=\s*"monitor-|guestfwd""", re.MULTILINE)


def _always(_: str) -> bool:
    return True


def _unless_none(value: str) -> bool:
    return value != "none"


def _chardev(value: str) -> bool:
    return _WITH_MONITOR.search(value) is not None


def _network(value: str) -> bool:
    return _FORWARDED.search(value) is not None


def _object(value: str) -> bool:
    return _OBJECT.search(value) is not None


def _file(value: str) -> bool:
    """Say whether a -readconfig file creates a monitor; False where it cannot be read."""
    try:
        with Path(value).open(errors="replace") as file:
            return _SECTION.search(file.read(MAX_FILE)) is not None
    except (OSError, ValueError):
        return False


#: options, and a test for the values that create a monitor; a debugger can send HMP commands (gdbstub: qRcmd)
OPTIONS: Mapping[str, Callable[[str], bool]] = {
    "qmp": _unless_none,
    "qmp-pretty": _unless_none,
    "mon": _unless_none,
    "monitor": _unless_none,
    "gdb": _unless_none,
    "s": _always,
    "serial": _chardev,
    "parallel": _chardev,
    "debugcon": _chardev,
    "netdev": _network,
    "nic": _network,
    "net": _network,
    "object": _object,
    "readconfig": _file,
}
#: options with a file that the guard may be unable to read
MAY_HIDE_MONITOR = frozenset({"readconfig"})
#: options without a value
WITHOUT_VALUE = frozenset({"s"})


def monitors(command: Sequence[str]) -> Iterator[str]:
    """Yield the options of a command line that create a monitor."""
    for option, value in options(command):
        if option in OPTIONS and OPTIONS[option](value):
            yield _spelled(option, value)


def possible_monitors(command: Sequence[str]) -> Iterator[str]:
    """Yield the options of a command line that may create a monitor."""
    for option, value in options(command):
        if option in MAY_HIDE_MONITOR and not OPTIONS[option](value):
            yield _spelled(option, value)


def is_daemon(command: Sequence[str]) -> bool:
    """Say whether QEMU would leave the process that it is started in (os-posix.c: os_daemonize)."""
    return any(option == "daemonize" for option, _ in options(command))


def _spelled(option: str, value: str) -> str:
    return f"-{option}" if option in WITHOUT_VALUE else f"-{option} {value}"


def options(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each word that looks like an option, and the word after it."""
    words = [*command[1:], ""]
    for word, following in pairwise(words):
        if word.startswith("-"):
            yield word.removeprefix("-").removeprefix("-"), following
