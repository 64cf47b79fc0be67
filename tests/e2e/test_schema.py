"""What the readers know is what the QEMUs at hand have: a newer QEMU with a new argument fails here first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.policy.readers import READERS, unknown_arguments
from qmpguard.policy.schema import CAPABILITIES, PARAMETERS, read_schema
from tests.support.guarding import connected

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]


@pytest.mark.parametrize("binary", QEMUS)
async def test_readers_know_every_argument_and_every_migration_parameter(
    tmp_path: Path, binary: Callable[[], Path]
) -> None:
    async with Qemu(binary(), tmp_path) as qemu, connected(qemu.monitors[0]) as qmp:
        schema = read_schema((await qmp.ask("query-qmp-schema"))["return"])
        parameters = (await qmp.ask("query-migrate-parameters"))["return"].keys()
        listed = (await qmp.ask("query-migrate-capabilities"))["return"]
        lines = (await qmp.ask("human-monitor-command", {"command-line": "info migrate_parameters"}))["return"]
    assert unknown_arguments(schema) == []
    assert READERS.keys() <= schema.commands
    assert schema.capabilities == {entry["capability"] for entry in listed}
    assert schema.capabilities <= CAPABILITIES
    assert parameters <= PARAMETERS
    assert {line.partition(":")[0].strip() for line in lines.splitlines()} <= PARAMETERS
