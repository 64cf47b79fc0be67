"""The console of a guard, and who may use it; `qmpguard override`, which does."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import UnixAddress
from qmpguard.cli import main
from qmpguard.daemon import console
from qmpguard.daemon.console import MAX_REASON, MAX_SECONDS, Console, socket_paths
from qmpguard.errors import UsageError
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.record import Override, Peer
from qmpguard.remote import consoles
from tests.daemon.test_supervisor import fleet_of, vm
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, assert_refused, capabilities, connected, eventually
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.daemon.supervisor import Supervisor
    from qmpguard.record import Entry

PID = os.getpid()
POSTCOPY = capabilities(postcopy_ram=True)
BEGIN: dict[str, Any] = {"vm": "one", "rule": None, "seconds": 60, "reason": "ticket 7"}


@asynccontextmanager
async def console_of(fleet: Supervisor, *paths: str) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(Console(fleet, *paths).run())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            task.cancel()


async def say(path: str, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    writer.write_eof()
    try:
        async with asyncio.timeout(TIMEOUT):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def ask(path: str, **request: Any) -> Any:
    return json.loads(await say(path, json.dumps(request).encode() + b"\n"))


@pytest.mark.parametrize("where", ["abstract", "file"])
async def test_an_override_lets_pass_what_was_refused_and_is_on_record(tmp_path: Path, where: str) -> None:
    path = f"\0{tmp_path}" if where == "abstract" else str(tmp_path / "c")
    heard: list[Entry] = []
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        fleet_of(vm(qemu)) as fleet,
        console_of(fleet, path),
        connected(tmp_path / "one.sock") as qmp,
    ):
        fleet.listen(heard.append)
        qemu.devices["gpu0"] = "vfio-pci"
        assert_refused(await qmp.ask("migrate-set-capabilities", POSTCOPY), "vfio-postcopy")
        assert "return" in await ask(path, begin=BEGIN)
        assert fleet.guards["one"].vm.snapshot().judging.overrides[0].reason == "ticket 7"
        assert "override=begun rule=all" in fleet.guards["one"].vm.snapshot().notes[0]
        assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}
        assert await ask(path, end={"vm": "one", "rule": None}) == {"return": True}
        assert await ask(path, end={"vm": "one", "rule": None}) == {"return": False}
        assert_refused(await qmp.ask("migrate", {"uri": "exec:cat"}), "vfio-postcopy")
        begun, over = (entry.what for entry in heard if isinstance(entry.what, Override))
        assert (begun.begun, over.begun, begun.peer.uid, begun.until) == (True, False, os.getuid(), over.until)
        assert fleet.guards["one"].vm.gate.policy == Policy()


async def test_an_override_ends_by_itself_and_outlives_a_reload(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
        hub = fleet.guards["one"].vm
        hub.overrides.begin("vfio-postcopy", 0.2, "soon over", Peer(0))
        fleet.apply([vm(qemu, policy=Policy(rules={"hmp-write": Mode.WARN}))])
        assert hub.gate.policy.rules == {"hmp-write": Mode.WARN, "vfio-postcopy": Mode.WARN}
        await eventually(lambda: not hub.overrides.active)
        assert hub.gate.policy.rules == {"hmp-write": Mode.WARN}


async def test_an_override_of_the_same_rule_takes_the_place_of_the_first(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
        overrides = fleet.guards["one"].vm.overrides
        overrides.begin("vfio-postcopy", 0.01, "first", Peer(0))
        overrides.begin("vfio-postcopy", 60, "second", Peer(0))
        overrides.begin("unverified", 0.02, "third", Peer(0))
        await eventually(lambda: len(overrides.active) == 1)
        assert [override.reason for override in overrides.active] == ["second"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (b"x\n", "the request is not JSON"),
        (b"[" * 10000 + b"\n", "the request is not JSON"),
        (b"1" * 5000 + b"\n", "the request is not JSON"),
        (b"\xff\xfe\x00\n", "the request is not JSON"),
        (b'"\\ud800"\n', "this version does not know the request"),
        (b'{"status": 1}\n', "this version does not know the request"),
        ({**BEGIN, "seconds": float("inf")}, "more than 0 and at most 86400 s"),
        ({**BEGIN, "seconds": int("9" * 4000)}, "more than 0 and at most 86400 s"),
        ({**BEGIN, "seconds": {}}, "more than 0 and at most 86400 s"),
        ({**BEGIN, "reason": "\ud800"}, "a reason is a printable text"),
        ({**BEGIN, "rule": "\ud800"}, "there is no rule '\\ud800'"),
        ({**BEGIN, "vm": "\ud800"}, "there is no VM '\\ud800' here"),
        (b"{}\n", "this version does not know the request"),
        (b'{"begin": {"vm": "one"}}\n', "this version does not know the request"),
        ({**BEGIN, "vm": "two"}, "there is no VM 'two' here; there are one"),
        ({**BEGIN, "rule": "vfio"}, "there is no rule 'vfio'; there are vfio-postcopy, "),
        ({**BEGIN, "seconds": 0}, "more than 0 and at most 86400 s"),
        ({**BEGIN, "seconds": MAX_SECONDS + 1}, "more than 0 and at most 86400 s"),
        ({**BEGIN, "seconds": float("nan")}, "more than 0 and at most 86400 s"),
        ({**BEGIN, "seconds": True}, "more than 0 and at most 86400 s"),
        ({**BEGIN, "reason": " \n"}, "a reason is a printable text"),
        ({**BEGIN, "reason": "a" * (MAX_REASON + 1)}, "a reason is a printable text"),
        ({**BEGIN, "reason": "\x1b[2J"}, "a reason is a printable text"),
    ],
)
async def test_what_is_asked_wrongly_is_refused(tmp_path: Path, request_: Any, says: str) -> None:
    path = str(tmp_path / "c")
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, path):
        data = request_ if isinstance(request_, bytes) else json.dumps({"begin": request_}).encode() + b"\n"
        assert says in json.loads(await say(path, data))["error"]
        assert not fleet.guards["one"].vm.overrides.active
        assert (await ask(path, status=True))["return"] == [{"vm": "one", "overrides": []}]


async def test_another_user_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "c")
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, path):
        monkeypatch.setattr("qmpguard.proxy.listening.listener.peer_of", lambda *_: Peer(1, 2, os.geteuid() + 1, 3))
        assert await say(path, b'{"status": true}\n') == b""


@pytest.mark.parametrize("request_", [{"begin": BEGIN}, {"end": {"vm": "one", "rule": None}}])
async def test_a_guarded_qemu_may_look_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request_: dict[str, Any]
) -> None:
    path = str(tmp_path / "c")
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, path):
        await eventually(lambda: fleet.guards["one"].vm.process is not None)
        monkeypatch.setattr(os, "getpid", lambda: 1)  # so that this process is not the guard, but QEMU
        for _ in range(console.LOG_LINES + 1):
            error = (await ask(path, **request_))["error"]
            assert error.startswith(f"refused: process {PID} is the QEMU of VM one (process {PID})")
        assert (await ask(path, status=True))["return"] == [{"vm": "one", "overrides": []}]
        assert not fleet.guards["one"].vm.overrides.active
    told = [record.getMessage() for record in caplog.records if "refused: process" in record.getMessage()]
    assert len(told) == console.LOG_LINES, "a QEMU that tries again and again does not fill the log"
    assert f"pid{PID}/uid{os.getuid()} refused: process {PID} is the QEMU of VM one" in told[0]


async def test_a_failure_of_the_guard_at_a_request_is_an_answer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    path = str(tmp_path / "c")
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, path):
        monkeypatch.setattr(Console, "_do", fails)
        assert "the guard failed at this request" in (await ask(path, status=True))["error"]
    assert "console task=conversation failed: ZeroDivisionError" in caplog.text


async def test_only_a_few_converse_at_a_time_and_who_comes_later_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "c")
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, path):
        silent = [await asyncio.open_unix_connection(path) for _ in range(console.MAX_CONNECTIONS)]
        assert await say(path, b'{"status": true}\n') == b""
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.01)
        assert (await ask(path, status=True))["return"]


async def test_one_who_says_nothing_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "REQUEST_TIMEOUT", 0.01)
    path = str(tmp_path / "c")
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, path):
        reader, writer = await asyncio.open_unix_connection(path)
        async with asyncio.timeout(TIMEOUT):
            assert await reader.read() == b""
        writer.close()


async def test_a_console_that_cannot_be_had_does_not_end_the_guard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "c").write_text("no socket")
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, str(tmp_path / "c")):
        assert "no overrides are possible: cannot listen at" in caplog.text


def abstract() -> str:
    return list(socket_paths({}))[-1]


def test_the_best_place_is_a_file_that_only_the_owner_reaches_and_an_abstract_name_the_last(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    first, second, *_, last = socket_paths(
        {"RUNTIME_DIRECTORY": "/run/qmpguard-a:/run/x", "XDG_RUNTIME_DIR": str(tmp_path)}
    )
    assert first == "/run/qmpguard-a/qmpguard-console.sock"
    assert second == f"{tmp_path}/qmpguard-console-{os.getpid()}.sock"
    assert last.startswith(f"\0qmpguard-console-{os.getpid()}-")
    assert abstract() != abstract()
    tmp_path.chmod(0o770)  # others could put something in its place
    assert str(tmp_path) not in next(socket_paths({"XDG_RUNTIME_DIR": str(tmp_path)}))
    assert "/nowhere" not in next(socket_paths({"XDG_RUNTIME_DIR": "/nowhere"}))


async def test_where_the_best_place_cannot_be_had_the_next_is_taken(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("no socket")
    paths = str(tmp_path / "c"), "/" + "a" * 200, str(tmp_path / "d")
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, *paths):
        assert (await ask(str(tmp_path / "d"), status=True))["return"]
        assert (tmp_path / "d").stat().st_mode & 0o777 == 0o600


def test_what_killed_guards_have_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    dead, living, other = (tmp_path / f"qmpguard-console-{pid}.sock" for pid in ("4194304", os.getpid(), "4194305"))
    with socket.socket(socket.AF_UNIX) as stale, socket.socket(socket.AF_UNIX) as unready:
        stale.bind(str(dead))
        unready.bind(str(living))  # a guard that has just been started, and does not listen yet
        other.write_text("no socket")
        console.remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([living, other])


async def override(*arguments: str) -> int:
    """The command, in a thread: it waits for the guard, which is in this process."""
    async with asyncio.timeout(TIMEOUT):
        return await asyncio.to_thread(main, ["override", "--pid", str(os.getpid()), *arguments])


@pytest.mark.parametrize("where", ["abstract", "file"])
async def test_the_command_begins_shows_and_ends(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = abstract() if where == "abstract" else next(socket_paths({"RUNTIME_DIRECTORY": str(tmp_path)}))
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, path):
        assert await override() == 0
        assert await override("--rule", "vfio-postcopy", "--for", "10m", "--reason", "ticket 7") == 0
        (active,) = fleet.guards["one"].vm.overrides.active
        assert (active.rule, active.reason, active.peer.pid) == ("vfio-postcopy", "ticket 7", os.getpid())
        assert await override() == 0
        assert await override("--rule", "vfio-postcopy", "--end") == 0
        assert not fleet.guards["one"].vm.overrides.active
        assert await override("--all-rules", "--for", "1.5h", "--reason", "x", "--vm", "one") == 0
        assert fleet.guards["one"].vm.overrides.active[0].rule is None
    none, begun, shown, over, everything = capsys.readouterr().out.splitlines()
    assert none == "one: nothing is overridden"
    assert begun.startswith("one: rule vfio-postcopy warns until ")
    assert shown == begun
    assert over == "one: the override is over"
    assert everything.startswith("one: all rules warn until ")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--for", "1m"], 2, "say which: --rule ID, or --all-rules"),
        (["--rule", "x", "--all-rules"], 2, "exclude each other"),
        (["--rule", "vfio-postcopy", "--for", "1m"], 2, "needs --for TIME and --reason TEXT"),
        (["--rule", "vfio-postcopy", "--for", "1d", "--reason", "x"], 2, "--for 1d: write a time as 90s, 10m or 2h"),
        (["--rule", "vfio-postcopy", "--end", "--for", "1m"], 2, "--end needs neither"),
        (["--rule", "nonsense", "--end"], 2, "it guards several VMs: say --vm one or --vm two"),
        (["--rule", "nonsense", "--end", "--vm", "one"], 2, "there is no rule 'nonsense'"),
        (["--rule", "vfio-postcopy", "--end", "--vm", "one"], 2, "one: nothing of that kind is overridden"),
        (["--rule", "vfio-postcopy", "--end", "--vm", "three"], 69, "no guard for VM three and process "),
    ],
)
async def test_what_is_wrong_with_a_command_is_said(
    tmp_path: Path, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with FakeQemu(tmp_path / "q") as one, FakeQemu(tmp_path / "r") as two:
        async with fleet_of(vm(one), vm(two, "two")) as fleet, console_of(fleet, abstract()):
            assert await override(*arguments) == code
        assert says in capsys.readouterr().err


async def test_what_another_user_has_put_in_a_consoles_place_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Credentials:
        """Who listens, as the kernel would say of another user's process."""

        def unpack(self, _: bytes) -> tuple[int, int, int]:
            return os.getpid(), 777, 777

    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, abstract()):
        monkeypatch.setattr(consoles, "_CREDENTIALS", Credentials())
        monkeypatch.setattr(os, "geteuid", lambda: 778)
        assert await override("--rule", "vfio-postcopy", "--for", "1m", "--reason", "x") == 69


@pytest.mark.parametrize(
    "answer", ["[]", "{}", '{"return": 1}', '{"return": [{}]}', '{"error": 1}', "x", "[" * 9999, ""]
)
async def test_what_is_no_console_is_passed_over(tmp_path: Path, answer: str) -> None:
    """It has a console's name, and answers otherwise."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer.encode() + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(talk, f"\0{console.NAME}-odd-{os.getpid()}")
    async with server:
        assert await override() == 69


async def test_a_guard_that_hangs_is_not_waited_for_when_another_is_meant(tmp_path: Path) -> None:
    """It has connections that wait, each of which the kernel lists under the console's path."""
    path = tmp_path / f"{console.NAME}.sock"
    silent = "import socket, sys, time\ns = socket.socket(1)\ns.bind(sys.argv[1])\ns.listen()\ntime.sleep(60)"
    hung = await start_process(sys.executable, "-c", silent, str(path))
    await eventually(path.exists)
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, abstract()):
        for _ in range(20):
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()
        assert await override() == 0  # in less than the patience of one conversation for each
    hung.kill()
    await hung.wait()


async def test_of_several_guards_one_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stray socket with the right name is no guard, and does not stand in the way."""
    with socket.socket(socket.AF_UNIX) as stray:
        stray.bind(f"\0{console.NAME}-stray-{os.getpid()}")
        async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, console_of(fleet, abstract()):
            assert await override("--rule", "vfio-postcopy", "--for", "1m", "--reason", "x") == 0
    assert "one: rule vfio-postcopy warns" in capsys.readouterr().out


async def test_the_status_of_all_vms_is_told_without_an_admin_interface(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QMPGUARD_ADMIN", raising=False)
    path = str(tmp_path / "c")
    monkeypatch.setattr(consoles, "_paths", lambda pid: iter([path]))
    nowhere = UnixAddress(str(tmp_path / "nowhere"))
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu), replace(vm(qemu, "two"), qemu=nowhere)) as fleet:
        fleet.remarks.append(lambda: "the last reload failed: nonsense")
        async with console_of(fleet, path):
            await eventually(lambda: fleet.guards["one"].vm.link is not None)
            told = await asyncio.to_thread(main, ["status"])
            assert told == 1, "one VM has no QEMU"
            head, one, _, reload, *_ = capsys.readouterr().out.splitlines()
            assert await asyncio.to_thread(main, ["status", "--json", "--pid", str(os.getpid())]) == told
            shown = json.loads(capsys.readouterr().out)["vms"]
            assert await asyncio.to_thread(main, ["status", "--pid", "1"]) == 69
    assert head.split()[0] == "VM"
    assert one.split()[:2] == ["one", "ready"]
    assert reload == "all VMs: the last reload failed: nonsense", "once, and not for each"
    assert [vm["name"] for vm in shown] == ["one", "two"]
    assert "no guard answers" in capsys.readouterr().err


def test_of_several_guards_each_line_names_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guards = [consoles.ConsoleInfo("/x", 7, {"a": []}), consoles.ConsoleInfo("/y", 8, {"b": []})]
    monkeypatch.setattr(consoles, "all_consoles", lambda pid: iter(guards))
    assert main(["override"]) == 0
    assert capsys.readouterr().out.splitlines() == ["7: a: nothing is overridden", "8: b: nothing is overridden"]
    row: dict[str, Any] = {
        "name": "a",
        "state": "ready",
        "qemu": None,
        "clients": [],
        "mode": "warn",
        "profile": "strict",
    }
    row |= {"counts": {"refused": 0, "warned": 0}, "faults": [], "notes": ["a note"]}
    row["migration"] = {"status": None, "vfio_transferred": None}
    earlier = {key: value for key, value in row.items() if key != "migration"} | {"state": "down"}
    monkeypatch.setattr(consoles, "all_vms", lambda pid: iter([(7, [row]), (8, [earlier])]))
    monkeypatch.delenv("QMPGUARD_ADMIN", raising=False)
    assert main(["status"]) == 1  # a guard of an earlier version tells less
    head, first, second, *notes = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in (head, first, second)] == [
        ["PID", "VM", "STATE"],
        ["7", "a", "ready"],
        ["8", "a", "down"],
    ]
    assert notes == ["7: a: a note", "8: a: a note"]


def test_where_several_guards_are_meant_each_is_named_with_its_vms(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [consoles.ConsoleInfo("a", 12, {"web1": [], "web2": []}), consoles.ConsoleInfo("b", 13, {"db": []})]
    monkeypatch.setattr(consoles, "all_consoles", lambda pid: iter(found))
    with pytest.raises(UsageError, match=r"several guards: say --pid 12 \(web1, web2\) or --pid 13 \(db\)"):
        consoles.find_console(None, None)
