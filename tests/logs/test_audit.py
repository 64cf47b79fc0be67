"""The audit, the traffic file, the journal and the log: what is written down, and what is not."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import re
import socket
import threading
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.config import LogConfig, LogFormat
from qmpguard.daemon.supervisor import Supervisor
from qmpguard.errors import ConfigError
from qmpguard.logs.formats import JsonFormatter
from qmpguard.logs.journald import Journald, encode, is_ours
from qmpguard.logs.linefile import LineFile
from qmpguard.logs.log_files import LogFiles
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from qmpguard.record import Decision, Peer
from tests.daemon.test_supervisor import fleet_of, vm
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

POSTCOPY = capabilities(postcopy_ram=True)
REF = re.compile(r"; ref ([0-9a-f]+-\d+)\)")


@asynccontextmanager
async def written_down(tmp_path: Path, config: LogConfig) -> AsyncGenerator[tuple[FakeQemu, Supervisor, LogFiles]]:
    strict = Policy(profile=Profile.STRICT)
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu, policy=strict)) as fleet:
        qemu.devices["gpu0"] = "vfio-pci"
        log_files = LogFiles(config, fleet)
        try:
            yield qemu, fleet, log_files
        finally:
            log_files.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_every_refusal_is_found_by_what_the_client_was_told_and_the_other_way_round(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    async with (
        written_down(tmp_path, LogConfig(audit=str(audit))) as (qemu, _, _),
        connected(tmp_path / "one.sock") as qmp,
        connected(tmp_path / "one.sock") as other,
    ):
        told = []
        for client in (qmp, other):
            replies = [
                await client.ask("migrate-set-capabilities", POSTCOPY),
                await client.ask("add_client", {"protocol": "@chardev", "fdname": "x"}),
                await client.ask("migrate", {"uri": "exec:cat"}),
                await client.ask("human-monitor-command", {"command-line": "log none"}),
            ]
            told += [reply.get("error", {}).get("desc") or reply["return"] for reply in replies]
        qemu.devices.clear()
        assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}
    refused = {line["ref"]: line for line in lines(audit) if line["verdict"] == "refused"}
    refs = [found[1] for text in told if (found := REF.search(text))]
    assert len(refs) == len(told) == 8
    assert sorted(refs) == sorted(refused)
    for text, ref in zip(told, refs, strict=True):
        assert refused[ref]["text"] in text
    first, last = refused[refs[0]], lines(audit)[-1]
    assert (first["rule"], first["mode"], first["devices"]) == ("vfio-postcopy", "enforce", ["gpu0"])
    assert (first["capability"], first["qemu"], first["vm"]) == ("postcopy-ram", "8.1.0", "one")
    assert (first["client"]["uid"], first["client"]["pid"]) == (os.getuid(), os.getpid())
    assert (last["verdict"], last["rule"]) == ("allowed", None)
    assert audit.stat().st_mode & 0o777 == 0o600


async def test_an_override_is_in_the_audit_at_its_begin_and_its_end(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    async with written_down(tmp_path, LogConfig(audit=str(audit))) as (_, fleet, _):
        overrides = fleet.guards["one"].vm.overrides
        overrides.begin("vfio-postcopy", 60, "ticket 7", Peer(0, 1, 2, 3))
        overrides.end("vfio-postcopy")
    told = [(line["kind"], line["begun"], line["reason"], line["client"]["uid"]) for line in lines(audit)]
    assert told == [("override", True, "ticket 7", 2), ("override", False, "ticket 7", 2)]


async def test_a_file_that_was_moved_away_is_followed_by_a_new_one(tmp_path: Path) -> None:
    audit, old = tmp_path / "audit", tmp_path / "audit.1"
    async with written_down(tmp_path, LogConfig(audit=str(audit))) as (_, fleet, log_files):
        overrides = fleet.guards["one"].vm.overrides
        overrides.begin(None, 60, "before", Peer(0))
        audit.rename(old)
        log_files.reopen()
        await eventually(audit.exists)
        overrides.begin(None, 60, "after", Peer(0))
    assert [line["reason"] for line in lines(old)] == ["before"]
    assert next(line["reason"] for line in lines(audit)) == "after"


async def test_a_reload_begins_and_ends_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmpguard.logs.log_files.log_to_stderr", lambda _: None)  # it would take pytest's place
    one, two = tmp_path / "one", tmp_path / "two"
    async with written_down(tmp_path, LogConfig()) as (_, fleet, log_files):
        overrides = fleet.guards["one"].vm.overrides
        for number, path in enumerate((None, one, one, two)):
            log_files.apply(await log_files.prepare(LogConfig(audit=None if path is None else str(path))))
            overrides.begin(None, 60, str(number), Peer(0))
        with pytest.raises(ConfigError, match="cannot open /no/such/dir/file: No such file or directory"):
            await log_files.prepare(LogConfig(audit="/no/such/dir/file"))
        overrides.begin(None, 60, "4", Peer(0))
        log_files.apply(await log_files.prepare(LogConfig()))
        overrides.begin(None, 60, "5", Peer(0))
    assert [line["reason"] for line in lines(one)] == ["1", "2"]
    assert [line["reason"] for line in lines(two)] == ["3", "4"]


def test_a_file_that_cannot_be_opened_at_the_beginning_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot open /no/such/dir/file: No such file or directory"):
        LineFile("/no/such/dir/file").wait_opened()


@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk_is_counted_told_of_and_noted_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, short: bool
) -> None:
    path, full, write = tmp_path / "f", threading.Event(), os.write
    full.set()

    def writes(file: int, data: bytes) -> int:
        if full.is_set() and short and len(data) > 5:
            return write(file, data[:3])
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr("os.write", writes)
    file = LineFile(str(path))
    file.wait_opened()
    file.put(b'{"n": 1}')
    file.put(b'{"n": 2}')
    wait_for(lambda: file.lost == 2)
    full.clear()
    file.put(b'{"n": 3}')
    file.close()
    whole = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    assert [(line.get("lines"), line.get("n")) for line in whole] == [(2, None), (None, 3)]
    assert caplog.text.count("cannot be written, lines are lost") == 1
    assert "can be written again; lines lost: 2" in caplog.text


async def test_lost_lines_are_shown(tmp_path: Path) -> None:
    async with written_down(tmp_path, LogConfig(audit=str(tmp_path / "a"))) as (_, fleet, log_files):
        assert fleet.guards["one"].vm.snapshot().notes == ()
        audit = log_files._now.audit
        assert audit is not None
        for _ in range(3):
            audit.count()
        assert fleet.guards["one"].vm.snapshot().notes == ("the audit has lost 3 lines",)


async def test_the_traffic_file_has_what_was_asked_for_but_no_secrets(tmp_path: Path) -> None:
    traffic = tmp_path / "traffic"
    config = LogConfig(traffic=str(traffic), exclude=frozenset({"query-status"}))
    async with written_down(tmp_path, config), connected(tmp_path / "one.sock", oob=True) as qmp:
        await qmp.ask("query-status")
        await qmp.ask("query-name")
        qmp.send({"exec-oob": "query-yank"})
        await qmp.receive()
        await qmp.ask("object-add", {"qom-type": "secret", "id": "s", "data": "hunter2"})
    told = [(line["command"], line["oob"], line["arguments"]) for line in lines(traffic)]
    assert told == [
        ("query-name", False, None),
        ("query-yank", True, None),
        ("object-add", False, {"qom-type": "secret", "id": "s", "data": "[hidden]"}),
    ]


async def test_the_journal_gets_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(5)
        async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
            qemu.devices["gpu0"] = "vfio-pci"
            with closing(Journald(str(tmp_path / "journal"))) as sender:
                fleet.listen(sender.on_entry)
                async with connected(tmp_path / "one.sock") as qmp:
                    reply = await qmp.ask("migrate-set-capabilities", POSTCOPY)
                    assert_refused(reply, "vfio-postcopy")
                fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
                fleet.guards["one"].vm.overrides.begin(None, 60, "ticket 7", Peer(0))
                assert b"\nQMPGUARD_REASON=ticket 7\n" in journal.recv(65536)
    assert fields["MESSAGE"] == f"vm=one {reply['error']['desc']}"
    assert fields["QMPGUARD_REF"] in reply["error"]["desc"]
    assert (fields["QMPGUARD_RULE"], fields["QMPGUARD_VERDICT"], fields["PRIORITY"]) == (
        "vfio-postcopy",
        "refused",
        "4",
    )
    assert fields["QMPGUARD_CLIENT_UID"] == str(os.getuid())
    assert re.fullmatch("[0-9a-f]{32}", fields["MESSAGE_ID"])


async def test_a_journal_that_does_not_listen_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
        with closing(Journald(str(tmp_path / "nobody"))) as sender:
            fleet.listen(sender.on_entry)
            for _ in range(3):
                fleet.guards["one"].vm.overrides.begin(None, 60, "x", Peer(0))
            await asyncio.sleep(0)
            assert sender.lost == 3
    assert caplog.text.count("the journal does not take messages") == 1


def test_the_journals_own_form() -> None:
    assert encode({"A": "x=1", "B": "two\nlines"}) == b"A=x=1\nB\n" + (9).to_bytes(8, "little") + b"two\nlines\n"


def test_the_journal_is_used_where_standard_error_goes_there(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file:
        status = os.fstat(file.fileno())
        assert is_ours({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, file.fileno())
        assert not is_ours({"JOURNAL_STREAM": "1:2"}, file.fileno())
        assert not is_ours({}, file.fileno())


def test_a_line_of_the_log_as_json() -> None:
    assert LogFormat("json") is LogFormat.JSON
    try:
        raise ValueError("x")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("a", logging.WARNING, "f", 1, "vm=%s", ("one\ntwo",), trace)
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"]) == ("warning", r"vm='one\ntwo'")
    assert "ValueError: x" in line["trace"]


def wait_for(condition: Any) -> None:
    """Wait for the thread that writes."""
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to that")


async def test_a_line_of_hmp_is_shown_without_what_may_be_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit = tmp_path / "audit"
    async with (
        written_down(tmp_path, LogConfig(audit=str(audit))) as (_, fleet, _),
        connected(tmp_path / "one.sock") as qmp,
    ):
        for line in ("migrate_set_capability postcopy-ram on", "set_password vnc s3cret"):
            await qmp.ask("human-monitor-command", {"command-line": line})
        await qmp.ask("migrate-set-capabilities", POSTCOPY)
        shot = [entry.what for entry in fleet.guards["one"].vm.journal.since(0) if isinstance(entry.what, Decision)]
    shown = ["migrate_set_capability postcopy-ram on", "set_password [hidden]"]
    assert [decision.hmp for decision in shot] == [*shown, ""]
    assert [line.get("hmp") for line in lines(audit)] == [*shown, None]
    told = [JsonFormatter().format(record) for record in caplog.records if "command=" in record.getMessage()]
    assert [json.loads(line).get("hmp") for line in told] == [*shown, None]
    assert "s3cret" not in caplog.text + audit.read_text()
