"""What on QEMU's command line makes a monitor, which would be a way around the guard (QEMU: system/vl.c).

QEMU takes options by their whole names only, behind one dash or two, with the value in the next word. A word that looks
like an option is taken for one here, also where it is another one's value: a monitor is never overlooked for that.

The monitor that QEMU makes by default, also with -nographic and in a window's menu, is not among them: it makes none
when there is a -mon, and the guard's own is one.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: bytes of a file of options that are read
MAX_FILE = 1 << 20

#: A character device in the old spelling that gets a monitor (chardev/char.c: qemu_chr_new_mux_mon): `mon:stdio`, or
#: `unix:/path,server=on,mux=on`.
_WITH_MONITOR = re.compile(r"^mon:|,mux(?!=(?:off|no|n|false)(?:,|$))(?:=|,|$)")
#: the same behind a forwarding of the user network (net/slirp.c: slirp_guestfwd): `guestfwd=tcp:10.0.2.9:1-mon:stdio`
_FORWARDED = re.compile(r"guestfwd.*(?:-mon:|mux)", re.DOTALL)
#: an object that is a monitor (QEMU 11.1), in its three spellings
_OBJECT = re.compile(r"""^monitor-|(?:^|,)qom-type=monitor-|['"]qom-type['"]\s*:\s*['"]monitor-""")
#: a section of a file of options that is a monitor, or may be
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
    """Say whether a file of options has a monitor in it, as far as it can be read."""
    try:
        with Path(value).open(errors="replace") as file:
            return _SECTION.search(file.read(MAX_FILE)) is not None
    except (OSError, ValueError):
        return False


#: options, and with which values they make a monitor; a debugger's connection takes HMP (gdbstub: qRcmd)
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
#: options in whose file a monitor may be hidden from us
DOUBTFUL = frozenset({"readconfig"})
#: options without a value
ALONE = frozenset({"s"})


def monitors(command: Sequence[str]) -> Iterator[str]:
    """Yield what on a command line makes another monitor."""
    for option, value in _options(command):
        if option in OPTIONS and OPTIONS[option](value):
            yield _spelled(option, value)


def doubtful(command: Sequence[str]) -> Iterator[str]:
    """Yield what on a command line may make one, which cannot be told from here for sure."""
    for option, value in _options(command):
        if option in DOUBTFUL and not OPTIONS[option](value):
            yield _spelled(option, value)


def _spelled(option: str, value: str) -> str:
    return f"-{option}" if option in ALONE else f"-{option} {value}"


def _options(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each word that looks like an option, and the word after it."""
    words = [*command[1:], ""]
    for word, following in pairwise(words):
        if word.startswith("-"):
            yield word.removeprefix("-").removeprefix("-"), following
