"""What becomes of a row: kept, broken by what was seen, or broken since the guest's kernel complains."""

from __future__ import annotations

from typing import Any

import pytest

from tests.labs.vfio.__main__ import see
from tests.labs.vfio.machine import Release
from tests.labs.vfio.rows import Place, Row, broken


class Lab:
    """A lab whose kernel says something after each row."""

    def __init__(self, kernel: str) -> None:
        self._kernel = kernel

    async def run(self, script: str) -> str:
        assert script == "dmesg -c"
        return self._kernel


async def good(_: Place) -> str:
    return "as promised"


async def bad(_: Place) -> str:
    return broken("something else")


@pytest.mark.parametrize(
    ("attempt", "kernel", "line"),
    [
        (good, "mtty: a device\n", "kept   11.1 | row | promise | as promised"),
        (bad, "mtty: a device\n", "BROKEN 11.1 | row | promise | something else"),
        (good, "Oops: 0000 [#1]\n", "BROKEN 11.1 | row | promise | the guest's kernel: Oops: 0000 [#1]\n"),
    ],
    ids=["kept", "broken", "kernel"],
)
async def test_a_row_is_kept_only_if_the_guests_kernel_does_not_complain(attempt: Any, kernel: str, line: str) -> None:
    lab: Any = Lab(kernel)
    seen = await see(lab, Row("row", "promise", attempt), Release.NEW)
    assert str(seen).replace("    0 s ", "") == line
