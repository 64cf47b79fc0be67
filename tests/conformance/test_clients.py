"""Every client is told the same by QEMU and by the guard before another, but for a refusal, which it gets over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from tests.support.clients.machines import twins_with_a_device
from tests.support.clients.roster import CLIENTS, Client
from tests.support.clients.sameness import differing, refusals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.conformance.twins import Twins

pytestmark = pytest.mark.qemu

QEMUS = {"system": system_qemu, "11.1": vfio_qemu}


@pytest.fixture(scope="module", params=["system", pytest.param("11.1", marks=pytest.mark.qemu11)])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with twins_with_a_device(QEMUS[request.param](), tmp_path_factory.mktemp("clients")) as twins:
        yield twins


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_is_told_what_qemu_tells_it_and_gets_over_a_refusal(twins: Twins, client: Client) -> None:
    straight, guarded = client.talk(twins.straight), client.talk(twins.guarded)
    assert differing(straight, guarded) == []
    assert refusals(guarded) == 1
    assert refusals(guarded[-1:]) == 0, "the conversation ends with the refusal"
