"""The description is true: schemathesis asks by it, all that it says and much that it does not."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS

from qmpguard.admin.openapi import document
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import capabilities, connected, eventually, guarding
from tests.support.visiting import TOKEN, visiting_by_tcp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: the stream never ends, so it is described here but asked elsewhere
schema = schemathesis.openapi.from_dict(document()).exclude(path="/api/v1/stream")


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """Serve in a thread, since schemathesis asks without asyncio; gives the address."""
    ready, done = threading.Event(), threading.Event()
    address = []

    async def serve() -> None:
        async with FakeQemu(folder / "q") as qemu:
            qemu.devices["gpu0"] = "vfio-pci"
            async with (
                guarding(qemu.path, watch=0.02) as guard,
                visiting_by_tcp(folder, guard) as visitor,
                connected(folder / "guard.sock") as qmp,
            ):
                await eventually(lambda: guard.vm.gate.last_seen.facts.migration is not None)
                await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
                address.append(visitor.base)
                ready.set()
                await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield address[0]
    finally:
        done.set()
        thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with site(tmp_path_factory.mktemp("site")) as where:
        yield where


@schema.parametrize()
@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_what_is_described_is_what_is_answered(case: schemathesis.Case[Any], address: str) -> None:
    case.call_and_validate(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"})


def test_every_check_of_schemathesis_is_run() -> None:
    assert len(CHECKS.get_all()) >= 10
