"""VFIO in the block layer: block nodes whose driver has a host device of its own, and maps guest RAM for its DMA.

QEMU's `nvme` driver (block/nvme.c) maps every RAM block when it opens; libblkio's (block/blkio.c) do where they pin.
None of them is a QOM device, has a migration blocker, or is seen by QEMU's own check. `query-named-block-nodes` lists
them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpguard.policy.device import Device
from qmpguard.policy.values import TooManyError, members

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

#: the drivers of such nodes
DRIVERS = frozenset({"nvme", "virtio-blk-vfio-pci", "virtio-blk-vhost-vdpa"})
#: commands that can open a node, by its options or by a file name
COMMANDS = frozenset(
    {
        *("blockdev-add", "blockdev-reopen", "blockdev-change-medium", "blockdev-snapshot-sync", "blockdev-create"),
        *("drive-mirror", "blockdev-mirror", "drive-backup", "blockdev-backup", "change-backing-file", "block-stream"),
        *("block-commit", "transaction"),
    }
)
#: lines of HMP that can
LINES = frozenset(
    {"drive_add", "drive_mirror", "drive_backup", "change", "snapshot_blkdev", "block_stream", "commit", "qemu-io"}
)

_NAMES = "|".join(sorted(map(re.escape, DRIVERS)))
_ADDRESS = re.compile(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_PROTOCOL = re.compile(r"\bnvme:")
#: a driver as options and JSON spell it: `driver=nvme`, `file.driver=nvme`, `format=nvme`, `"driver": "nvme"`
_SPELLED = re.compile(rf"""\b(?:driver|format)["']?\s*[=:]\s*["']?(?P<driver>{_NAMES})(?![\w-])""")


def opened(arguments: Value) -> Device | None:
    """Return the first such node that a request would open, as a device; None where it would open none.

    What an image names as its backing file shows only when it has been opened. Raises `TooManyError`.
    """
    for key, value, options in members(arguments):
        if not isinstance(value, str):
            continue
        if key.rpartition(".")[2] in ("driver", "format") and value in DRIVERS:
            return _described(value, options or {})
        if _PROTOCOL.search(value):
            return _described("nvme", {**(options or {}), "device": _address(value)})
    return None


def opened_by_line(text: str) -> Device | None:
    """Return the node that a line of HMP would open, if any; raises `TooManyError` where JSON in it hides names.

    An escape in JSON may spell any name; nobody writes one in a line that people type.
    """
    plain = text.replace(",,", ",").replace('\\"', '"')
    if "json:" in plain and "\\u" in plain:
        raise TooManyError
    if (spelled := _SPELLED.search(plain)) is not None:
        return _described(spelled["driver"], {"device": _address(plain)})
    return _described("nvme", {"device": _address(plain)}) if _PROTOCOL.search(plain) else None


def listed(answer: Value) -> tuple[Device, ...]:
    """Return the nodes that ``query-named-block-nodes`` lists; raises `ValueError` for an answer of another form."""
    if not isinstance(answer, list):
        raise ValueError("the list of block nodes is none")
    found = []
    for entry in answer:
        if not isinstance(entry, dict):
            raise ValueError("a block node is no object")
        driver, file = entry.get("drv"), entry.get("file")
        if not isinstance(driver, str) or not isinstance(file, str):
            raise ValueError("a block node has no driver or no file")
        if driver in DRIVERS:
            found.append(_described(driver, {"node-name": entry.get("node-name"), "device": _address(file)}))
    return tuple(sorted(found, key=lambda device: device.path))


def _described(driver: str, options: dict[str, Value]) -> Device:
    name, host = options.get("node-name") or options.get("id"), options.get("device") or options.get("path")
    node = name if isinstance(name, str) else None
    address = host if isinstance(host, str) and host else None
    return Device(f"block node '{node}'" if node else f"a block node of driver {driver}", driver, node, address)


def _address(text: str) -> str:
    found = _ADDRESS.search(text)
    return found[0] if found else ""
