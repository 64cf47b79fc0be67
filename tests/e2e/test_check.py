"""`qmpguard check` and `explain` on real QEMUs, directly and behind a guard; and where nobody answers."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.admin import serialize
from qmpguard.cli import main
from qmpguard.commands import status
from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from qmpguard.record import Run
from qmpguard.remote import inspection
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import capabilities, connected, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

CAPABILITY = json.dumps({"execute": "migrate-set-capabilities", "arguments": capabilities(postcopy_ram=True)})


class Shell:
    """Runs commands as a shell would, in a thread, so that what they talk to goes on in this one."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    async def run(self, *words: object) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, [str(word) for word in words])
        out, err = self._capture.readouterr()
        return code, out, err

    async def json(self, *words: object) -> tuple[int, Any]:
        code, out, err = await self.run(*words, "--json")
        assert not err
        return code, json.loads(out)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@asynccontextmanager
async def running(folder: Path, *, vfio: bool, arguments: tuple[str, ...] = (), guarded: bool) -> AsyncGenerator[Path]:
    """Run a QEMU, with a VFIO device or without; yield where it is reached, directly or behind a guard."""
    async with AsyncExitStack() as stack:
        if vfio:
            server = await stack.enter_async_context(VfioUserServer(folder / "vu.sock"))
            arguments += ("-device", json.dumps(vfio_user_device(server.path, id="gpu0")))
        binary = vfio_qemu() if vfio else system_qemu()
        qemu = await stack.enter_async_context(Qemu(binary, folder, arguments, machine="pc"))
        if guarded:
            await stack.enter_async_context(guarding(qemu.monitors[0]))
        yield folder / "guard.sock" if guarded else qemu.monitors[0]


README = Path(__file__).parents[2] / "README.md"
GUARDED = pytest.mark.parametrize("guarded", [False, True], ids=["directly", "behind a guard"])


@pytest.mark.qemu
async def test_check_says_which_back_ends_are_not_known(tmp_path: Path, shell: Shell) -> None:
    nics = ["-netdev", "user,id=n0", "-netdev", "user,id=n1"]
    nics += ["-device", "virtio-net-pci,id=net0,netdev=n0", "-device", "virtio-net-pci,netdev=n1"]
    async with (
        Qemu(system_qemu(), tmp_path, nics, machine="pc") as qemu,
        guarding(qemu.monitors[0]),
    ):
        _, said = await shell.json("check", tmp_path / "guard.sock")
        assert said["unknown_back_ends"] == ["/machine/peripheral-anon/device[0]", "net0"]
        assert "netdevs" not in said["machine"]
        _, text, _ = await shell.run("check", tmp_path / "guard.sock")
        assert "network back ends of unknown type: /machine/peripheral-anon/device[0], net0." in text


@GUARDED
@pytest.mark.qemu11
async def test_check_says_which_migrations_would_be_refused(tmp_path: Path, shell: Shell, guarded: bool) -> None:
    async with running(tmp_path, vfio=True, guarded=guarded) as socket:
        code, said = await shell.json("check", socket)
        assert code == 1
        assert said["qemu"]["version"].startswith("11.")
        assert said["machine"]["devices"] == [
            {"path": "/machine/peripheral/gpu0", "driver": "vfio-user-pci", "id": "gpu0"}
        ]
        ways = {m["way"]: (m["passes"], m["rule"], m["qemu_itself"]["refuses"]) for m in said["migrations"]}
        assert ways["plain"] == ("warned", "vfio-state-lost", "no")
        assert ways["postcopy"] == ("no", "vfio-postcopy", "no")
        assert ways["background snapshot"] == ("no", "vfio-background-snapshot", "no")
        code, text, _ = await shell.run("check", socket)
        assert code == 1
        assert "  postcopy             refused\n" in text
        assert "rule vfio-postcopy; what helps: migrate the plain way, or unplug the device first" in text
        assert "would QEMU itself refuse it? no (its check does not see such a device)" in text
        assert "  incoming             not now: it was not started with -incoming" in text


@pytest.mark.qemu11
async def test_the_readme_shows_what_check_says(tmp_path: Path, shell: Shell) -> None:
    """But for the version, the address and lines that it leaves out."""
    sample = README.read_text().partition("$ qmpguard check /run/vm/qmp.sock\n")[2].partition("```")[0].splitlines()
    lit = ("-global", "migration.x-postcopy-ram=on")
    async with running(tmp_path, vfio=True, arguments=lit, guarded=False) as qemu:
        _, text, _ = await shell.run("check", qemu)
        said = iter(text.splitlines()[1:])
    for line in sample[1:]:
        if line.startswith("Judged by "):
            assert next(said).startswith("Judged by ")
        elif line.strip() != "...":
            assert any(line == real for real in said), f"not in this order, or not at all: {line}"


@GUARDED
@pytest.mark.qemu
async def test_check_finds_nothing_where_there_is_no_vfio_device(tmp_path: Path, shell: Shell, guarded: bool) -> None:
    async with running(tmp_path, vfio=False, guarded=guarded) as socket:
        code, said = await shell.json("check", socket)
        assert (code, said["refuses"]) == (0, False)
        assert [m["passes"] for m in said["migrations"]] == ["yes"] * 9
        code, text, _ = await shell.run("check", socket)
        assert "VFIO devices: none" in text
        assert "  as it stands now     passes\n" in text
        assert "  postcopy             passes\n" in text


@pytest.mark.qemu
async def test_check_of_a_destination_speaks_of_what_comes_in(tmp_path: Path, shell: Shell) -> None:
    async with running(tmp_path, vfio=False, arguments=("-incoming", "defer"), guarded=False) as socket:
        code, text, _ = await shell.run("check", socket)
        assert code == 0
        assert "  incoming postcopy    passes" in text
        assert "  plain                not now: it waits for a migration to come" in text


async def test_check_tells_qemus_own_blockers_and_that_they_refuse(tmp_path: Path, shell: Shell) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
        qemu.answers["query-migrate"] = lambda _: {"blocked-reasons": ["the disk does not migrate"]}
        code, text, _ = await shell.run("check", tmp_path / "guard.sock")
        assert code == 1
        assert "QEMU's own blocker: the disk does not migrate" in text
        assert "QEMU itself refuses: the disk does not migrate" in text
        assert not {c for c in qemu.commands() if not c.startswith(("query-", "qom-"))}


async def test_explain_tells_that_qemu_itself_refuses_though_the_guard_would_not(tmp_path: Path, shell: Shell) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
        qemu.answers["query-migrate"] = lambda _: {"blocked-reasons": ["a disk", "the other disk"]}
        command = json.dumps({"execute": "migrate", "arguments": {"uri": "tcp:h:1"}})
        code, text, _ = await shell.run("explain", "--machine", tmp_path / "guard.sock", command)
        assert (code, text.splitlines()[:-1]) == (
            1,
            [
                "migrate: it passes the guard, and QEMU itself would refuse it",
                "  would QEMU itself refuse it? yes (blocked: the other disk)",
            ],
        )
        code, said = await shell.json("explain", "--machine", tmp_path / "guard.sock", command)
        assert (code, said["verdict"], said["qemu_itself"]["refuses"]) == (1, "refused by QEMU", "yes")
        del qemu.answers["query-migrate"]
        code, text, _ = await shell.run("explain", "--machine", tmp_path / "guard.sock", command)
        assert (code, text.splitlines()[0]) == (0, "migrate: it passes")


@pytest.mark.qemu11
async def test_explain_judges_a_command_and_sends_nothing(tmp_path: Path, shell: Shell) -> None:
    async with running(tmp_path, vfio=True, guarded=False) as socket:
        code, text, _ = await shell.run("explain", "--machine", socket, CAPABILITY)
        assert code == 1
        assert text.startswith(
            "migrate-set-capabilities: it would be refused\n  rule vfio-postcopy (enforce): gpu0: VFIO"
        )
        line = {"command-line": "migrate_set_capability background-snapshot on"}
        command = json.dumps({"execute": "human-monitor-command", "arguments": line})
        code, said = await shell.json("explain", "--machine", socket, command)
        assert (code, said["verdict"]) == (1, "refused")
        assert said["findings"][0]["rule"] == "vfio-background-snapshot"
        assert said["error"].startswith(
            "gpu0: VFIO migration is not supported with background snapshot (qmpguard: rule"
        )
        async with connected(socket) as qmp:
            on = (await qmp.ask("query-migrate-capabilities"))["return"]
            assert not any(
                entry["state"] for entry in on if entry["capability"] in ("postcopy-ram", "background-snapshot")
            )


@pytest.mark.qemu11
async def test_explain_judges_by_a_machine_that_check_has_saved(tmp_path: Path, shell: Shell) -> None:
    saved = tmp_path / "machine.json"
    async with running(tmp_path, vfio=True, guarded=False) as socket:
        saved.write_text((await shell.run("check", socket, "--json"))[1])
    code, said = await shell.json("explain", "--machine", saved, CAPABILITY)
    assert (code, said["findings"][0]["rule"]) == (1, "vfio-postcopy")
    for command, verdict in [
        ("{'execute': 'migrate', 'arguments': {'uri': 'tcp:h:1'}}", "warned"),
        ("{'execute': 'cont'}", "not judged"),
        ("{'execute': 'device_add', 'arguments': {'driver': 'vfio-pci'}}", "passes"),
        ("{'exec-oob': 'migrate-pause'}", "not judged"),
    ]:
        assert (await shell.json("explain", "--machine", saved, command))[1]["verdict"] == verdict
    code, text, _ = await shell.run("explain", "--machine", saved, "{'execute': 'migrate', 'arguments': {'config': 1}}")
    assert code == 1
    assert "rule unverified (enforce): This request could not be verified: qmpguard does not know" in text
    set_property = "{'execute': 'qom-set', 'arguments': {'path': 'gpu0', 'property': 'realized', 'value': false}}"
    assert (await shell.run("explain", "--machine", saved, set_property))[0] == 1


@pytest.mark.parametrize(
    ("profile", "command", "saved", "wrong"),
    [
        ("standard", "{'execute'", "{}", "the command is not JSON: it is not complete"),
        ("standard", "nonsense]", "{}", "the command is not JSON: JSON parse error"),
        ("standard", "5", "{}", "the command is not a QMP request: QMP input must be a JSON object"),
        (
            "standard",
            "{'execute': 5}",
            "{}",
            "the command is not a QMP request: QMP input member 'execute' must be a string",
        ),
        (
            "standard",
            "{'execute': 'migrate'}",
            "{}",
            "the saved machine lacks this fact: migration capabilities",
        ),
        (
            "standard",
            f"{{'execute': 'migrate', 'id': [{'1, ' * 5000}1]}}",
            "{}",
            "the saved machine lacks this fact: migration capabilities",
        ),
        ("strict", "{'execute': 'nonsense'}", "{}", "the saved machine lacks this fact: commands of the schema"),
        ("standard", "{'execute': 'migrate'}", "[]", "machine.json: a machine is an object"),
        ("standard", "{'execute': 'migrate'}", "{", "machine.json: it is not JSON"),
    ],
)
async def test_what_explain_cannot_read_is_said_in_a_line(
    tmp_path: Path, shell: Shell, profile: str, command: str, saved: str, wrong: str
) -> None:
    path = tmp_path / "machine.json"
    path.write_text(saved)
    code, out, err = await shell.run("explain", "--profile", profile, "--machine", path, command)
    assert (code, out) == (2, "")
    assert wrong in err
    assert err.count("\n") == 1


async def test_what_is_no_qemu_is_said_to_be_so(tmp_path: Path, shell: Shell) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    async with await asyncio.start_unix_server(greet, tmp_path / "q"):
        code, _, err = await shell.run("check", tmp_path / "q")
    assert code == 69
    assert "the answer there is not QMP" in err


async def test_nobody_at_all(tmp_path: Path, shell: Shell) -> None:
    for words in (("check", tmp_path / "q"), ("explain", "--machine", tmp_path / "q", CAPABILITY)):
        code, _, err = await shell.run(*words)
        assert code == 69
        assert err == f"qmpguard: unix:{tmp_path / 'q'}: No such file or directory\n"


async def test_check_and_status_tell_the_bytes_of_vfio_devices(tmp_path: Path, shell: Shell) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        _, out, _ = await shell.run("check", tmp_path / "guard.sock")
        assert "last migration: none\n" in out
        assert list(status.lines([("", [serialize.vm(guard.vm.snapshot(), Run())])]))[2:] == []
        qemu.migration, qemu.progress = "completed", {"vfio": {"transferred": 60}}
        _, out, _ = await shell.run("check", tmp_path / "guard.sock")
        assert "last migration: completed; 60 bytes of VFIO devices\n" in out
        await guard.vm.gate.look()
        shown = list(status.lines([("", [serialize.vm(guard.vm.snapshot(), Run())])]))
        assert shown[-1] == "test: migration completed; VFIO devices have transferred 60 bytes"


ODD = [(5, "could not be read"), ({"class": "CommandNotFound", "desc": "gone"}, "query-migrate-capabilities")]


@pytest.mark.parametrize(("answer", "said"), ODD)
async def test_a_qemu_that_does_not_answer_as_it_should(
    tmp_path: Path, shell: Shell, answer: object, said: str
) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
        qemu.answers["query-migrate-capabilities"] = lambda _: answer
        code, _, err = await shell.run("check", tmp_path / "guard.sock")
    assert code == 69
    assert said in err


async def test_a_qemu_that_is_busy_for_too_long(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "ANSWER_TIMEOUT", 0.1)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
        qemu.hold.add("query-status")
        code, _, err = await shell.run("check", tmp_path / "guard.sock")
    assert code == 69
    assert "QEMU did not answer within 0.1 s" in err
