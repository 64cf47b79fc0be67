"""A guard whose audit has no room left: it judges on, and counts what it could not write."""

from __future__ import annotations

import asyncio
import re
import resource
from typing import TYPE_CHECKING

from tests.labs.soak.__main__ import scrape
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, assert_refused, capabilities, connected
from tests.support.process import guard_process

if TYPE_CHECKING:
    from pathlib import Path

#: bytes that any file may have: less than two lines of the audit
ROOM = 900
REQUESTS = 20


async def test_requests_are_judged_when_no_line_of_the_audit_can_be_written(tmp_path: Path) -> None:
    socket, audit, admin = tmp_path / "g.sock", tmp_path / "audit", tmp_path / "admin.sock"
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        ends = ("--qemu", str(qemu.path), "--listen", str(socket), "--admin", str(admin), "--audit", str(audit))
        limits = {resource.RLIMIT_FSIZE: ROOM}
        async with (
            guard_process(tmp_path, "run", *ends, limits=limits, stderr=asyncio.subprocess.DEVNULL) as guard,
            connected(socket) as qmp,
        ):
            for number in range(REQUESTS):
                reply = await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=True), id=number)
                assert_refused(reply, "vfio-postcopy")
                assert reply["id"] == number
            async with asyncio.timeout(TIMEOUT):
                while not (lost := _lost(await scrape(admin))):  # noqa: ASYNC110 -- a thread writes
                    await asyncio.sleep(0.05)
            assert await guard.end() == 0
    assert 0 < lost <= REQUESTS
    assert "migrate-set-capabilities" not in qemu.commands()


def _lost(metrics: str) -> int:
    found = re.search(r'^qmpguard_lines_lost_total\{where="audit"\} (\d+)', metrics, re.MULTILINE)
    return int(found[1]) if found else 0
