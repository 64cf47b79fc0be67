"""Where the journal takes decisions itself, standard error leaves out those, and only those, that it has taken."""

from __future__ import annotations

import logging
import re
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qmpguard.logs import stderr
from qmpguard.logs.formats import TextFormatter
from qmpguard.logs.journald import Journald
from qmpguard.logs.stderr import StderrLog
from qmpguard.record import Peer
from tests.daemon.test_supervisor import fleet_of, vm
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

POSTCOPY = capabilities(postcopy_ram=True)
REF = re.compile(r"ref[ =]([0-9a-f]+-\d+)")


@contextmanager
def logging_to(journal: Journald, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Log as in a process whose standard error goes to the journal; yields what would be written there."""
    written: list[str] = []

    def write(_: object, data: bytes) -> int:
        written.append(data.decode())
        return len(data)

    monkeypatch.setattr(stderr._Stderr, "write", write)
    handler = StderrLog()
    handler.setFormatter(TextFormatter())
    handler.is_recorded = journal.has_last_entry
    logging.getLogger("qmpguard").addHandler(handler)
    try:
        yield written
    finally:
        logging.getLogger("qmpguard").removeHandler(handler)
        handler.end()


async def test_every_refusal_is_in_exactly_one_of_both_whatever_the_journal_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    journal = Journald(str(path))
    told: list[str] = []
    taken: list[str] = []

    with logging_to(journal, monkeypatch) as written:
        async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
            qemu.devices["gpu0"] = "vfio-pci"
            fleet.listen(journal.on_entry)

            async def refuse(times: int) -> None:
                async with connected(tmp_path / "one.sock") as client:
                    for _ in range(times):
                        reply = await client.ask("migrate-set-capabilities", POSTCOPY)
                        assert_refused(reply, "vfio-postcopy")
                        told.extend(REF.findall(reply["error"]["desc"]))

            await refuse(3)  # there is no journal
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
                server.bind(str(path))
                server.settimeout(5)
                await refuse(2)
                taken += [REF.findall(server.recv(65536).decode())[0] for _ in range(2)]
            await refuse(2)  # it is gone
            path.unlink()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
                server.bind(str(path))
                server.setblocking(False)
                while journal.lost < 8:  # it is full
                    await refuse(1)
                while True:
                    try:
                        taken += REF.findall(server.recv(65536).decode())[:1]
                    except BlockingIOError:
                        break
                await refuse(1)
                taken += REF.findall(server.recv(65536).decode())[:1]
    journal.close()
    said = [ref for line in written if " verdict=refused " in line for ref in REF.findall(line)[:1]]
    assert len(told) == len(set(told))
    assert sorted([*said, *taken]) == sorted(told)
    assert journal.lost == len(said) == 8
    text = "".join(written)
    assert text.count("the journal does not take messages: ") == 3
    assert re.findall(r"the journal takes messages again; messages lost: (\d+)", text) == ["3", "2", "3"]


async def test_no_value_brings_a_line_of_its_own_into_the_journal(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "journal"))
        server.settimeout(5)
        journal = Journald(str(tmp_path / "journal"))
        async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
            fleet.listen(journal.on_entry)
            reason = "x\nPRIORITY=0\nMESSAGE=forged\x1b[2J\u2028" + "y" * 100_000
            fleet.guards["one"].vm.overrides.begin(None, 60, reason, Peer(0))
        fields = [line.partition("=") for line in server.recv(1 << 20).decode().splitlines()]
        journal.close()
    names = [name for name, _, _ in fields]
    assert len(names) == len(set(names))
    for name, equals, value in fields:
        assert re.fullmatch("[A-Z_]+", name)
        assert equals
        assert value.isprintable()
        assert len(value) < 5000
