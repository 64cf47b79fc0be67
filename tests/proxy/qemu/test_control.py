"""The guard's own session: it ends without a trace, whenever that is."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import capabilities, connected, guarding

if TYPE_CHECKING:
    from pathlib import Path

#: turns of the loop in which a link that was lost is cleared away, and some more
TURNS = 12


async def test_a_guard_that_is_stopped_while_it_loses_its_qemu_leaves_no_error_unread(tmp_path: Path) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    for turns in range(TURNS):
        async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
            qemu.hold.add("query-migrate-capabilities")
            async with connected(tmp_path / "guard.sock") as qmp:
                qmp.send({"execute": "migrate-set-capabilities", "arguments": capabilities(postcopy_ram=True)})
                await qemu.until("query-migrate-capabilities")
                qemu.die()
                for _ in range(turns):
                    await asyncio.sleep(0)
    gc.collect()
    assert not complaints
