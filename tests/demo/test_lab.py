"""The lab: real QEMUs are found and started, and what is missing is said in one line."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qemu.qmp import QMPClient

from qmpguard.demo import lab
from qmpguard.demo.lab import LabUnavailable, fetch, main, system_qemu, version, vfio_qemu
from qmpguard.demo.qemu import Qemu, QemuDied, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from tests.support.descriptors import open_files, opened_since

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

#: seconds for one command
TIMEOUT = 20.0


@asynccontextmanager
async def connected(monitor: Path) -> AsyncGenerator[QMPClient]:
    client = QMPClient("test")
    async with asyncio.timeout(TIMEOUT):
        await client.connect(str(monitor))
    try:
        yield client
    finally:
        await client.disconnect()


async def ask(monitor: Path, command: str, arguments: dict[str, Any] | None = None) -> Any:
    async with connected(monitor) as client, asyncio.timeout(TIMEOUT):
        return await client.execute(command, arguments)


@pytest.mark.qemu11
async def test_a_vm_with_a_vfio_device_runs(tmp_path: Path) -> None:
    async with VfioUserServer(tmp_path / "vu.sock") as server:
        device = json.dumps(vfio_user_device(server.path, id="gpu0"))
        async with Qemu(vfio_qemu(), tmp_path, ["-device", device], monitors=2, machine="pc") as qemu:
            answer = await ask(qemu.monitors[0], "query-migrate-capabilities")
            assert {"capability": "postcopy-ram", "state": False} in answer
            (kind,) = [
                entry["type"]
                for entry in await ask(qemu.monitors[1], "qom-list", {"path": "/machine/peripheral"})
                if entry["name"] == "gpu0"
            ]
            assert kind == "child<vfio-user-pci>"


@pytest.mark.qemu11
async def test_a_vfio_device_is_plugged_in_and_out(tmp_path: Path) -> None:
    async with (
        VfioUserServer(tmp_path / "vu.sock") as server,
        Qemu(vfio_qemu(), tmp_path, machine="pc") as qemu,
        connected(qemu.monitors[0]) as client,
    ):
        for _ in range(2):
            assert await client.execute("device_add", vfio_user_device(server.path, id="hot")) == {}
            with client.listener("DEVICE_DELETED") as deleted:
                await client.execute("device_del", {"id": "hot"})
                await client.execute("system_reset")  # no guest is there to let go of it
                async with asyncio.timeout(TIMEOUT):
                    assert (await deleted.get())["data"]


@pytest.mark.qemu11
async def test_the_vfio_qemu_knows_the_device() -> None:
    process = await asyncio.create_subprocess_exec(
        *(vfio_qemu(), "-device", "vfio-user-pci,help"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"vfio-user-pci options:" in out
    assert b"socket=" in out


@pytest.mark.qemu11
def test_fetching_returns_at_once_when_there_is_a_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = vfio_qemu()
    monkeypatch.setattr(lab, "_unpack", None)
    assert fetch() == found


@pytest.mark.qemu
async def test_a_ready_qemu_answers_on_every_monitor_and_is_gone_afterwards(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path, monitors=3) as qemu:
        assert [path.name for path in qemu.monitors] == ["qmp0.sock", "qmp1.sock", "qmp2.sock"]
        for path in qemu.monitors:
            assert (await ask(path, "query-status"))["status"] == "running"
        assert qemu.process.returncode is None
    assert qemu.process.returncode == 0


@pytest.mark.qemu
async def test_a_killed_qemu_may_be_followed_by_another_in_its_directory(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as first:
        first.kill()
        await first.stop()
        assert first.process.returncode == -9
        async with Qemu(system_qemu(), tmp_path) as second:
            assert (await ask(second.monitors[0], "query-status"))["status"] == "running"


@pytest.mark.qemu
async def test_starting_a_qemu_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    before = open_files()
    async with Qemu(system_qemu(), tmp_path):
        pass
    assert not opened_since(before)


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-nonsense"], "invalid option"),
        (["-device", "nonsense"], "'nonsense' is not a valid device model name"),
    ],
    ids=["before its sockets are there", "after its sockets are there"],
)
async def test_a_qemu_that_dies_early_says_why(tmp_path: Path, args: list[str], words: str) -> None:
    with pytest.raises(QemuDied, match=words):
        async with Qemu(system_qemu(), tmp_path, args):
            pytest.fail("it cannot be ready")


@pytest.mark.qemu
async def test_a_qemu_that_is_never_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qmpguard.demo.qemu.START", 0.3)
    monkeypatch.setattr("qmpguard.demo.qemu.STOP", 0.1)
    qemu = Qemu(program(tmp_path / "stuck", "#!/bin/sh\nexec sleep 600\n"), tmp_path)
    with pytest.raises(QemuDied, match="not ready after 0 s: no output on standard error"):
        await qemu.__aenter__()
    assert qemu.process.returncode == -9


@pytest.mark.parametrize(
    ("variable", "find"), [("QMPGUARD_QEMU_BINARY", system_qemu), ("QMPGUARD_QEMU11_BINARY", vfio_qemu)]
)
def test_a_variable_that_names_no_program_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, find: Any
) -> None:
    monkeypatch.setenv(variable, "/nowhere/qemu")
    with pytest.raises(LabUnavailable) as error:
        find()
    assert str(error.value) == f"{variable}=/nowhere/qemu is not a program: correct it, or unset it and run `make lab`"


def test_a_missing_qemu_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nothing_here(monkeypatch, tmp_path)
    for find in (system_qemu, vfio_qemu):
        with pytest.raises(LabUnavailable, match=r"^[^\n]*`make lab`[^\n]*$"):
            find()


def test_fetching_without_its_tools_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing_here(monkeypatch, tmp_path)
    monkeypatch.setattr("sys.argv", ["lab", "fetch"])
    assert main() == 1
    assert "apt-get is not installed" in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / "qmpguard").iterdir()) == []


APT_GET = "#!/bin/sh\nprintf '%s\\n' http://mirror.test/debian-security/ http://mirror.test/debian/\n"

#: writes down what it is asked for, waits for WAIT others that do the same, and leaves a root with a QEMU of a kind
MMDEBSTRAP = """#!/bin/sh
for root; do case $root in */root) break;; esac; done
lib=$root/usr/lib/x86_64-linux-gnu
mkdir -p "$lib"
printf '%s\\n' "$@" >"$0.$$"
while [ "$(ls "$0".* | wc -l)" -lt "${WAIT:-1}" ]; do sleep 0.01; done
printf '#!/bin/sh\\necho QEMU emulator version 11.1\\n' >"$lib/ld-linux-x86-64.so.2"
chmod +x "$lib/ld-linux-x86-64.so.2"
"""


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with an apt and an mmdebstrap of our own, and nothing else of the lab; returns where they are."""
    nothing_here(monkeypatch, tmp_path)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("apt-get", APT_GET), ("mmdebstrap", MMDEBSTRAP)):
        program(folder / name, text)
    for name in ("realpath", "dirname", "mkdir", "chmod", "ls", "wc", "sleep"):
        (folder / name).symlink_to(str(shutil.which(name, path=os.defpath)))
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_fetching_asks_the_mirror_that_apt_uses_and_keeps_nothing_but_the_qemu(tools: Path) -> None:
    found = fetch()
    assert found == vfio_qemu()
    assert version(found) == "QEMU emulator version 11.1"
    (asked,) = tools.glob("mmdebstrap.*")
    assert "deb http://mirror.test/debian/ trixie-backports main" in asked.read_text().splitlines()
    assert [path.name for path in found.parent.parent.iterdir()] == ["qemu-11.1"]


def test_two_may_fetch_at_once(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIT", "2")
    with ThreadPoolExecutor(2) as pool:
        one, other = (future.result(TIMEOUT) for future in [pool.submit(fetch), pool.submit(fetch)])
    assert one == other
    assert len(list(tools.glob("mmdebstrap.*"))) == 2
    assert [path.name for path in one.parent.parent.iterdir()] == ["qemu-11.1"]


@pytest.mark.parametrize(
    ("tool", "text", "sentence"),
    [
        (
            "mmdebstrap",
            "echo I: hello >&2; echo E: no network >&2; echo E: failed >&2; exit 1",
            "mmdebstrap failed: E: no network",
        ),
        ("mmdebstrap", "mkdir -p /dev/null/x", "mmdebstrap failed: "),
        ("mmdebstrap", "exit 0", "does not run here"),
        ("apt-get", "echo http://mirror.test/ubuntu/", "apt on this machine has no Debian mirror configured"),
    ],
)
def test_fetching_that_fails_says_why_and_leaves_nothing(
    tools: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tool: str,
    text: str,
    sentence: str,
) -> None:
    program(tools / tool, f"#!/bin/sh\n{text}\n")
    monkeypatch.setattr("sys.argv", ["lab", "fetch"])
    assert main() == 1
    progress, reason = capsys.readouterr().err.splitlines()
    assert progress.startswith("lab: unpacking QEMU 11.1")
    assert sentence in reason
    assert list((tools.parent / "qmpguard").iterdir()) == []


def test_fetching_into_a_place_that_cannot_be_is_said_in_one_line(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tools / "apt-get"))
    with pytest.raises(LabUnavailable, match=r"^QEMU 11.1 cannot be kept: [^\n]+$"):
        fetch()


def test_what_is_there_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qemu = program(tmp_path / "qemu", "#!/bin/sh\necho QEMU emulator version 99.1\necho Copyright\n")
    nothing_here(monkeypatch, tmp_path)
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("QMPGUARD_QEMU_BINARY", str(qemu))
    monkeypatch.setenv("QMPGUARD_QEMU11_BINARY", "/nowhere/qemu")
    monkeypatch.setattr("sys.argv", ["lab"])
    assert main() == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"system     QEMU emulator version 99.1  {qemu}"
    assert second.startswith("with VFIO  QMPGUARD_QEMU11_BINARY=/nowhere/qemu is not a program")


def test_a_program_that_does_not_run_is_said_in_one_line(tmp_path: Path) -> None:
    qemu = program(tmp_path / "qemu", "#!/bin/sh\necho first >&2; echo no such library >&2; exit 3\n")
    with pytest.raises(LabUnavailable, match=r"^qemu failed: no such library$"):
        version(qemu)


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def nothing_here(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    """Make the machine one without a QEMU, a cache or a tool."""
    for variable in ("QMPGUARD_QEMU_BINARY", "QMPGUARD_QEMU11_BINARY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty))
    monkeypatch.setenv("PATH", str(empty))
