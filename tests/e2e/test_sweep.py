"""Every command of real QEMUs' schemas, and of their HMP, against the table of what each can do to the guard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.policy.mode import Profile
from qmpguard.policy.observer import QUERIES
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import READERS, read
from qmpguard.policy.reading.result import Harmless
from qmpguard.policy.schema import read_schema
from tests.support.guarding import connected
from tests.support.scenes import hmp
from tests.support.sweep import HARMLESS, OPEN, TELLING, TELLING_OF

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.schema import Schema

QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]
STRICT = Policy(profile=Profile.STRICT)
#: lines of HMP that pass in profile strict: those that steer, and `info`
PASS_IN_STRICT = {"migrate_cancel", "migrate_pause", "migrate_continue", "info"}
#: lines that QEMU rejects without arguments; with them they are judged, which other tests show
NEED_ARGUMENTS = {
    *("device_add", "device_del", "migrate", "migrate_incoming", "migrate_recover", "migrate_set_capability"),
    *("migrate_set_parameter", "netdev_add", "netdev_del", "object_add", "object_del", "qom-set", "loadvm"),
}


async def schema_and_help(binary: Path, folder: Path) -> tuple[Schema, set[str]]:
    """What a QEMU says of itself: its schema, and the names of its lines of HMP."""
    async with Qemu(binary, folder, machine="pc") as qemu, connected(qemu.monitors[0]) as qmp:
        schema = read_schema((await qmp.ask("query-qmp-schema"))["return"])
        text = (await qmp.ask("human-monitor-command", {"command-line": "help"}))["return"]
    names = re.findall(r"^([a-z_][\w|?-]*)", text, re.MULTILINE)
    return schema, {name for alternatives in names for name in alternatives.split("|") if name != "?"}


@pytest.mark.parametrize("binary", QEMUS)
async def test_every_command_is_judged_harmless_or_said_to_be_open(tmp_path: Path, binary: Callable[[], Path]) -> None:
    schema, lines = await schema_and_help(binary(), tmp_path)
    listed = READERS.keys() | HARMLESS.keys() | OPEN.keys()
    queries = {command for command in schema.commands if command.startswith(QUERIES)}
    assert schema.commands - queries - listed == set()
    telling = {
        (command, argument)
        for command in schema.commands - queries - READERS.keys() - OPEN.keys()
        for argument in schema.arguments[command] & TELLING
    }
    assert telling - TELLING_OF.keys() == set()
    assert len(lines) > 90
    passing = {line for line in lines if isinstance(read(*as_request(line), STRICT), Harmless)}
    assert passing - PASS_IN_STRICT - NEED_ARGUMENTS == set()


def as_request(line: str) -> tuple[str, dict[str, str]]:
    request = hmp(line)
    return request["execute"], request["arguments"]


def test_no_command_stands_twice_in_the_table() -> None:
    assert not HARMLESS.keys() & OPEN.keys()
    assert not READERS.keys() & (HARMLESS.keys() | OPEN.keys())


def test_what_is_open_stands_in_the_threat_model() -> None:
    text = (Path(__file__).parents[2] / "docs/threat-model.md").read_text()
    for where in OPEN.values():
        assert f"* **{where}" in text
