"""The network back ends on QEMU's command line that access guest RAM by themselves: nothing shows them later.

They are read as QEMU reads them (net/net.c: net_init_netdev, net_param_nic; util/qemu-config.c for -readconfig).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from qmpguard.daemon.monitors import MAX_FILE, options
from qmpguard.policy.hmp.syntax import read_pairs
from qmpguard.policy.netdevs import shared_memory_netdev
from qmpguard.wire.framing import Framer, Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qmpguard.policy.device import Device
    from qmpguard.wire.json import Value

_SECTION = re.compile(r"""^\s*\[\s*(?P<group>[\w-]+)(?:\s+"(?P<id>[^"]*)")?\s*\]""")
_ENTRY = re.compile(r"""^\s*(?P<key>[\w-]+)\s*=\s*"(?P<value>[^"]*)\"""")


def back_ends(command: Sequence[str]) -> tuple[Device, ...]:
    """Return the back ends of a command line, as devices. One without an id is named after its option."""
    found = []
    for option, value in options(command):
        unnamed: dict[str, Value] = {"id": f"of -{option}"}
        found += [shared_memory_netdev(unnamed | arguments) for arguments in _netdevs(option, value)]
    return tuple(back_end for back_end in found if back_end is not None)


def _netdevs(option: str, value: str) -> Iterator[dict[str, Value]]:
    if option in ("netdev", "nic", "net"):
        yield _json(value) if value.startswith("{") else dict(read_pairs(value, "type"))
    elif option == "readconfig":
        yield from _sections(value)


def _json(text: str) -> dict[str, Value]:
    """Return the members of a JSON object in QEMU's dialect; none where QEMU would refuse it."""
    framer = Framer()
    framer.feed(text.encode(errors="replace"))
    match framer.pull_whole():
        case Message(dict() as members):
            return members
        case _:
            return {}


def _sections(path: str) -> Iterator[dict[str, Value]]:
    """Yield the netdev sections of a -readconfig file; none where it cannot be read."""
    try:
        with Path(path).open(errors="replace") as file:
            lines = file.read(MAX_FILE).splitlines()
    except (OSError, ValueError):
        return
    section: dict[str, Value] = {}
    for line in [*lines, "[end]"]:
        if (begins := _SECTION.match(line)) is not None:
            yield section
            section = _begun(begins.groupdict()) if begins["group"] in ("netdev", "nic", "net") else {}
        elif section and (entry := _ENTRY.match(line)) is not None:
            section[entry["key"]] = entry["value"]


def _begun(names: Mapping[str, str | None]) -> dict[str, Value]:
    return {"group": names["group"], **({"id": names["id"]} if names["id"] else {})}
