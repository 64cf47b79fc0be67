"""The programs and monitors that a network back end would start, from the arguments of `netdev_add`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qmpguard.wire.json import Value

#: the arguments of `netdev_add` that name a program (QEMU qapi/net.json); "no" means no script
_PROGRAMS = ("script", "downscript", "helper", "smb", "path")
#: entries of `guestfwd` that are read: QEMU's guests have a handful
MAX_FORWARDS = 1024


def opens_monitor(arguments: Mapping[str, Value]) -> bool:
    """Say whether QEMU would open a monitor: a `guestfwd` to a character device with a monitor.

    QEMU net/slirp.c, slirp_guestfwd: the first dash after the port is followed by ``cmd:`` and a program, or by a
    character device. The device has a monitor if it begins with ``mon:``, or has the option ``mux``
    (chardev/char.c: qemu_chr_new_noreplay).
    """
    return any("-mon:" in text or ",mux" in text for text in _forwards(arguments))


def program_of(arguments: Mapping[str, Value]) -> str | None:
    """Return the argument that names a program for QEMU to run; None where none does."""
    for name in _PROGRAMS:
        if arguments.get(name) not in (None, "", "no"):
            return f"'{name}'"
    return "'guestfwd' to a command" if any("-cmd:" in text for text in _forwards(arguments)) else None


def _forwards(arguments: Mapping[str, Value]) -> Iterator[str]:
    """Yield the texts of `guestfwd`: a list of objects with one member `str` in QMP, one text or several in HMP."""
    forwards = arguments.get("guestfwd")
    entries = forwards[:MAX_FORWARDS] if isinstance(forwards, list) else [forwards]
    for entry in entries:
        text = entry.get("str") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            yield text
