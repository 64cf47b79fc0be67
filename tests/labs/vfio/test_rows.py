"""What becomes of a row: kept, broken by what was seen, or broken since the guest's kernel complains."""

from __future__ import annotations

import asyncio
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
    ("attempt", "kernel", "kept", "text"),
    [
        (good, "mtty: a device\n", True, "as promised"),
        (bad, "mtty: a device\n", False, "something else"),
        (good, "Oops: 0000 [#1]\n", False, "the guest's kernel: Oops: 0000 [#1]\n"),
    ],
    ids=["kept", "broken", "kernel"],
)
async def test_a_row_is_kept_only_if_the_guests_kernel_does_not_complain(
    attempt: Any, kernel: str, text: str, *, kept: bool
) -> None:
    lab: Any = Lab(kernel)
    seen = await see(lab, Row("row", "promise", attempt), Release.NEW)
    assert (seen.kept, seen.seen) == (kept, text)
    assert str(seen).startswith("kept   11.1" if kept else "BROKEN 11.1")
    assert str(seen).endswith(f" | row | promise | {text}")


async def hangs(_: Place) -> str:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()
    return "never"


async def test_what_went_wrong_elsewhere_is_told_with_the_rows_own_line() -> None:
    lab: Any = Lab("")
    seen = await see(lab, Row("row", "promise", hangs), Release.OLD)
    assert not seen.kept
    assert seen.seen.startswith("TimeoutError() at test_rows.py:")
    assert "asyncio.timeout(0)" in seen.seen
