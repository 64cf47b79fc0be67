"""What the readers know is what the QEMUs at hand have: a newer QEMU with a new argument fails here first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.readers import READERS, unknown_arguments
from qmpguard.policy.schema import CAPABILITIES, PARAMETERS, read_schema
from tests.support.qemus import on_each

if TYPE_CHECKING:
    from qmpguard.testing.machines import TestedQemu


@on_each
def test_readers_know_every_argument_and_every_migration_parameter(qemu: TestedQemu) -> None:
    schema = read_schema(qemu.execute("query-qmp-schema")["return"])
    parameters = qemu.execute("query-migrate-parameters")["return"].keys()
    listed = qemu.execute("query-migrate-capabilities")["return"]
    lines = qemu.execute("human-monitor-command", **{"command-line": "info migrate_parameters"})["return"]
    assert unknown_arguments(schema) == []
    assert READERS.keys() <= schema.commands
    assert schema.capabilities == {entry["capability"] for entry in listed}
    assert schema.capabilities <= CAPABILITIES
    assert parameters <= PARAMETERS
    assert {line.partition(":")[0].strip() for line in lines.splitlines()} <= PARAMETERS
