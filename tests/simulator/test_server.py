"""A simulated QEMU: its migrations and faults, what a guard says to it, and recordings as its script."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from qmpguard.address import FdAddress, UnixAddress
from qmpguard.errors import UnavailableError, UsageError
from qmpguard.simulator.description import Description, FaultKind, QemuFault, read_description
from qmpguard.simulator.server import SimulatedQemu, simulating
from tests.support.guarding import Client, assert_refused, capabilities, connected, guarding
from tests.support.replay import TRANSCRIPTS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

EXAMPLE = """
version = "11.1"
capabilities = ["events"]
[[device]]
driver = "vfio-pci"
id = "gpu0"
[migration]
seconds = 0.05
[[fault]]
command = "query-block"
kind = "dies"
"""


@asynccontextmanager
async def simulated(folder: Path, text: str = EXAMPLE) -> AsyncGenerator[tuple[SimulatedQemu, Client]]:
    async with (
        simulating(read_description(text, "text"), UnixAddress(str(folder / "s"))) as qemu,
        connected(folder / "s") as client,
    ):
        yield qemu, client


async def statuses(client: Client) -> list[str]:
    """The states of a migration, by its events, until it is over."""
    found: list[str] = []
    while not found or found[-1] not in ("completed", "failed", "cancelled"):
        message = await client.receive()
        if message.get("event") == "MIGRATION":
            found.append(message["data"]["status"])
    return found


async def test_a_migration_takes_its_time_and_ends(tmp_path: Path) -> None:
    async with simulated(tmp_path) as (_, client):
        client.send({"execute": "migrate", "arguments": {"uri": "unix:/nowhere"}})
        assert await statuses(client) == ["setup", "active", "completed"]
        assert (await client.ask("query-migrate"))["return"]["status"] == "completed"
        assert (await client.ask("query-status"))["return"]["status"] == "postmigrate"


async def test_a_migration_may_fail_or_be_cancelled(tmp_path: Path) -> None:
    text = 'capabilities = ["events"]\n[migration]\nseconds = 0.05\nfails = "no route"\n'
    async with simulated(tmp_path, text) as (_, client):
        client.send({"execute": "migrate", "arguments": {"uri": "unix:/nowhere"}})
        assert (await statuses(client))[-1] == "failed"
        assert (await client.ask("query-migrate"))["return"]["error-desc"] == "no route"
    async with simulated(tmp_path, 'capabilities = ["events"]\n[migration]\nseconds = 3600\n') as (_, client):
        client.send({"execute": "migrate", "arguments": {"uri": "unix:/nowhere"}}, {"execute": "migrate_cancel"})
        assert (await statuses(client))[-1] == "cancelled"


async def test_a_guard_takes_it_for_a_qemu(tmp_path: Path) -> None:
    async with (
        simulating(read_description(EXAMPLE, "text"), UnixAddress(str(tmp_path / "s"))) as qemu,
        guarding(tmp_path / "s") as guard,
        connected(tmp_path / "guard.sock") as client,
    ):
        assert_refused(await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True)), "vfio-postcopy")
        assert "migrate-set-capabilities" not in qemu.monitor.commands()
        assert guard.vm.counts.refused == 1
        assert await client.ask("device_del", {"id": "gpu0"}) == {"return": {}}
        assert (await client.receive())["event"] == "DEVICE_DELETED"
        assert await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True)) == {"return": {}}


@pytest.mark.parametrize("kind", [FaultKind.DIES, FaultKind.HALF])
async def test_it_dies_at_a_command(tmp_path: Path, kind: FaultKind) -> None:
    fault = QemuFault("query-block", kind, count=2)
    async with (
        simulating(Description(faults=(fault,)), UnixAddress(str(tmp_path / "s"))) as qemu,
        connected(tmp_path / "s") as client,
    ):
        assert await client.ask("query-block") == {"return": []}
        client.send({"execute": "query-block"})
        rest = await client.reader.read()
        assert rest == (b"" if kind is FaultKind.DIES else b'{"return')
        assert qemu.monitor.ended.is_set()


async def test_it_is_silent_or_slow_at_a_command(tmp_path: Path) -> None:
    faults = (QemuFault("query-block", FaultKind.SILENT), QemuFault("query-name", FaultKind.SLOW, seconds=0.01))
    async with (
        simulating(Description(faults=faults), UnixAddress(str(tmp_path / "s"))),
        connected(tmp_path / "s") as client,
    ):
        client.send({"execute": "query-block", "id": 1}, {"execute": "query-name", "id": 2})
        assert (await client.receive())["id"] == 2


async def test_its_own_refusal_of_postcopy_with_a_vfio_pci(tmp_path: Path) -> None:
    text = EXAMPLE.replace('["events"]', '["postcopy-ram"]')
    async with simulated(tmp_path, text) as (_, client):
        reply = await client.ask("migrate", {"uri": "unix:/nowhere"})
        assert reply["error"]["desc"] == "gpu0: VFIO migration is not supported with postcopy migration"


async def test_a_recording_is_its_script(tmp_path: Path) -> None:
    text = (TRANSCRIPTS / "10.0.13-A_on-postcopy.jsonl").read_text()
    async with simulated(tmp_path, text) as (qemu, client):
        assert qemu.machine.known.qemu.startswith("7.2")  # the latest known that is not later
        reply = await client.ask("migrate", {"uri": "exec:cat >/dev/null"})
        assert "VFIO migration is not supported" in reply["error"]["desc"]


async def test_one_client_after_the_other_and_quit_ends_it(tmp_path: Path) -> None:
    async with simulating(Description("7.2"), UnixAddress(str(tmp_path / "s"))) as qemu:
        for _ in range(2):
            async with connected(tmp_path / "s") as client:
                assert (await client.ask("query-version"))["return"]["qemu"]["major"] == 7
        async with connected(tmp_path / "s") as client:
            client.send({"execute": "quit"})
            assert await client.closed()
        assert qemu.monitor.ended.is_set()


async def test_what_it_does_not_simulate_it_says(tmp_path: Path) -> None:
    async with simulated(tmp_path) as (_, client):
        reply = await client.ask("query-sev")
        assert reply["error"]["desc"] == "qmpguard simulate has no answer to query-sev"


async def test_addresses_that_cannot_be_had(tmp_path: Path) -> None:
    for address, kind in ((FdAddress(0), UsageError), (UnixAddress(str(tmp_path)), UnavailableError)):
        with pytest.raises(kind):
            async with simulating(Description(), address):
                pass


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = 5", "'version' is a string"),
        ('version = "1.0"', "version '1.0' is not known here, but 7.2, 11.1"),
        ("odd = 1", "the description has no 'odd'"),
        ("device = 1", "'device' is a list"),
        ("[[device]]", "'device.driver' is a string"),
        ("[migration]\nseconds = -1", "'migration.seconds' is a number of seconds from 0 to 3600"),
        ("[migration]\nodd = 1", r"\[migration\] has no 'odd'"),
        ('[[fault]]\ncommand = "x"\nkind = "odd"', "'odd' is not a valid FaultKind"),
        ('[[fault]]\ncommand = "x"\nkind = "slow"\ncount = 0', "'fault.count' is a number from 1 on"),
        ("nonsense", "Expected"),
        ("{}", "it has none of"),
    ],
)
def test_what_is_no_description_is_said(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        read_description(text, "file")
    assert str(caught.value).startswith("file:")


def test_the_description_in_the_manual_can_be_read() -> None:
    text = (TRANSCRIPTS.parents[1] / "docs/testing.md").read_text()
    (block,) = [block for block in text.split("```") if "[migration]" in block and "[[fault]]" in block]
    found = read_description(block, "testing.md")
    assert (found.version, found.migration, found.faults[0].kind) == ("11.1", 5.0, FaultKind.SLOW)
