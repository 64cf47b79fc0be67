"""The QEMUs whose answers are known: each is a recording of one that had nothing but a bare `pc`.

`python -m tests.labs.capture ADDR FILE.jsonl.xz` makes such a recording.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING

from qmpguard.errors import UsageError
from qmpguard.recording.lines import Exchange, LinkUp, Members
from qmpguard.recording.reader import read_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.wire.json import Value

#: the queries whose answers a recording of a bare QEMU has
QUERIES = (
    *("query-version", "query-qmp-schema", "query-commands", "query-migrate-capabilities", "query-migrate-parameters"),
    *("query-status", "query-name", "query-uuid", "query-kvm", "query-target", "query-memdev", "query-block"),
    *("query-named-block-nodes", "query-cpus-fast", "query-iothreads", "query-memory-size-summary", "query-machines"),
    *("query-events", "query-chardev-backends", "query-fdsets", "query-rx-filter", "query-vnc", "query-balloon"),
    *("query-jobs", "query-block-jobs", "query-blockstats", "query-pci", "query-acpi-ospm-status", "query-tpm"),
)


@dataclass(frozen=True, slots=True)
class KnownQemu:
    """One version of QEMU: its greeting's version, and its replies to queries."""

    qemu: str
    replies: Mapping[str, Members] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """The package in its greeting."""
        match self.replies.get("query-version"):
            case {"return": {"package": str(package)}}:
                return package
            case _:
                return ""

    def returned(self, command: str) -> Value:
        """Return what a query returned; None where it was refused or not recorded."""
        return self.replies.get(command, {}).get("return")


def versions() -> list[str]:
    """Return the known versions, oldest first."""
    names = [file.name for file in (files("qmpguard.simulator") / "data").iterdir()]
    found = [n.removeprefix("qemu-").removesuffix(".jsonl.xz") for n in names if n.endswith(".jsonl.xz")]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def known_qemu(version: str) -> KnownQemu:
    """Return the known QEMU of a version, as in "11.1". Raises `UsageError` for any other."""
    if version not in versions():
        raise UsageError(f"QEMU {version} is not known here, but {', '.join(versions())}")
    data = (files("qmpguard.simulator") / "data" / f"qemu-{version}.jsonl.xz").read_bytes()
    texts = lzma.decompress(data).decode().splitlines(keepends=True)
    lines = [line for _, line in read_lines(texts, f"qemu-{version}")]
    (qemu,) = [line.qemu for line in lines if isinstance(line, LinkUp)]
    return KnownQemu(qemu, {line.command: line.reply for line in lines if isinstance(line, Exchange)})
