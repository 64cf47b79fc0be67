"""VFIO in the block layer: block nodes whose driver owns a host device and maps guest RAM for its DMA.

QEMU's `nvme` driver (block/nvme.c) maps every RAM block when it opens. The drivers of libblkio (block/blkio.c) do so
where they pin memory. These nodes are not QOM devices, add no migration blocker, and QEMU's own check does not cover
them. `query-named-block-nodes` lists them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpguard.policy.argument_values import TooManyValuesError, walk_members
from qmpguard.policy.device import Device

if TYPE_CHECKING:
    from qmpguard.wire.json import Value

#: the drivers of these nodes
DRIVERS = frozenset({"nvme", "virtio-blk-vfio-pci", "virtio-blk-vhost-vdpa"})
#: commands that can open a node, by its options or by a file name
COMMANDS = frozenset(
    {
        *("blockdev-add", "blockdev-reopen", "blockdev-change-medium", "blockdev-snapshot-sync", "blockdev-create"),
        *("drive-mirror", "blockdev-mirror", "drive-backup", "blockdev-backup", "change-backing-file", "block-stream"),
        *("block-commit", "transaction"),
    }
)
#: HMP commands that can
LINES = frozenset(
    {"drive_add", "drive_mirror", "drive_backup", "change", "snapshot_blkdev", "block_stream", "commit", "qemu-io"}
)

_NAMES = "|".join(sorted(map(re.escape, DRIVERS)))
_ADDRESS = re.compile(r"[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]")
_PROTOCOL = re.compile(r"\bnvme:")
#: a driver in options and in JSON: `driver=nvme`, `file.driver=nvme`, `format=nvme`, `"driver": "nvme"`
_SPELLED = re.compile(rf"""\b(?:driver|format)["']?\s*[=:]\s*["']?(?P<driver>{_NAMES})(?![\w-])""")


def opened_vfio_node(arguments: Value) -> Device | None:
    """Return the first VFIO block node that a request would open, as a device; None where it would open none.

    The backing file that an image names is known only after the image is opened. Raises `TooManyValuesError`.
    """
    for key, value, options in walk_members(arguments):
        if not isinstance(value, str):
            continue
        if key.rpartition(".")[2] in ("driver", "format") and value in DRIVERS:
            return _described(value, options or {})
        if _PROTOCOL.search(value):
            return _described("nvme", {**(options or {}), "device": _address(value)})
    return None


def vfio_node_in_line(text: str) -> Device | None:
    """Return the VFIO block node that an HMP line would open; None where it would open none.

    Raises `TooManyValuesError` for JSON with escapes, which could spell any name.
    """
    plain = text.replace(",,", ",").replace('\\"', '"')
    if "json:" in plain and "\\u" in plain:
        raise TooManyValuesError
    if (spelled := _SPELLED.search(plain)) is not None:
        return _described(spelled["driver"], {"device": _address(plain)})
    return _described("nvme", {"device": _address(plain)}) if _PROTOCOL.search(plain) else None


def listed_vfio_nodes(answer: Value) -> tuple[Device, ...]:
    """Return the VFIO block nodes in the answer to ``query-named-block-nodes``. Raises `ValueError`."""
    if not isinstance(answer, list):
        raise ValueError("the block nodes are not a list")
    found = []
    for entry in answer:
        if not isinstance(entry, dict):
            raise ValueError("a block node is not an object")
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
