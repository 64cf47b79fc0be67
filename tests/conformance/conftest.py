"""The twins that all tests here share: they are started once for each QEMU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from tests.support.conformance.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Iterator

QEMUS = {"system": system_qemu, "11.1": vfio_qemu}


@pytest.fixture(scope="package", params=["system", pytest.param("11.1", marks=pytest.mark.qemu11)])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    with Twins(QEMUS[request.param](), tmp_path_factory.mktemp("twins")) as twins:
        yield twins
