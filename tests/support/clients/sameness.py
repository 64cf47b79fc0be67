"""When what a client was told by QEMU and by the guard is the same."""

from __future__ import annotations

import json
import re
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: what differs between two QEMUs that are alike: times, and the numbers of threads and descriptors
_OWN = re.compile(r"""(["']timestamp["']: |["']thread-id["']: |["']fd["']: |on FD )(\d+|\{[^}]*\})""")

REFUSAL = "VFIO migration is not supported with postcopy migration (qmpguard: rule vfio-postcopy, "


def plain(told: object) -> str:
    """Return what a client was told without what each QEMU has of its own."""
    text = told if isinstance(told, str) else json.dumps(told, sort_keys=True)
    return _OWN.sub(r"\1(its own)", text)


def differing(straight: Sequence[str], guarded: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that differ, QEMU's and the guard's; a refusal of what QEMU accepts is as it should be."""
    return [
        (one, other)
        for one, other in zip_longest(straight, guarded, fillvalue="(nothing)")
        if one != other and not (REFUSAL in other and "rror" not in one)
    ]


def refusals(guarded: Sequence[str]) -> int:
    """How many refusals of the guard a client was told."""
    return sum(REFUSAL in told for told in guarded)
