"""`check` where nothing answers at once: why, as far as the kernel tells, and the wait; and pretty monitors."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from qmpguard.address import TcpAddress, UnixAddress
from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.remote import inspection
from qmpguard.remote.listening import Process, why_silent
from tests.e2e.test_check import CAPABILITY, Shell, shell  # noqa: F401 -- a fixture
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import connected, eventually, guarding
from tests.support.process import guard_process

AT = UnixAddress("/run/vm/a.sock")
CHARDEV = ("-chardev", "socket,path=/run/vm/a.sock,server=on,id=a")


def qemu(*words: str, stopped: bool = False) -> Process:
    return Process(7, ("/usr/bin/qemu-system-x86_64", "-nodefaults", *words), stopped)


@pytest.mark.parametrize(
    ("process", "says"),
    [
        (None, "another client has this monitor, which"),
        (qemu("-qmp", "unix:/run/vm/a.sock,server=on"), "another client has this monitor of QEMU (process 7), which"),
        (qemu(*CHARDEV, "-mon", "chardev=a,mode=control"), "another client has this monitor of QEMU (process 7)"),
        (qemu(*CHARDEV), f"QEMU (process 7) has it as {' '.join(CHARDEV)!r}, which is no monitor"),
        (qemu("-qmp", "unix:b,server=on", *CHARDEV), "which is no monitor"),
        (
            qemu("-qmp", "unix:/run/vm/a.sock", stopped=True),
            "process 7 (qemu-system-x86_64), which listens there, is sto",
        ),
        (
            Process(7, ("python3", "/usr/bin/qmpguard", "run"), stopped=False),
            "a guard (process 7) listens there. Either",
        ),
        (Process(7, ("/usr/sbin/sshd", "-D"), stopped=False), "process 7 (sshd) listens there, which is no QEMU"),
        (Process(7, (), stopped=False), "process 7 (?) listens there"),
    ],
)
def test_why_nothing_is_said(process: Process | None, says: str) -> None:
    assert why_silent(process, AT).startswith(says) or says in why_silent(process, AT)
    assert why_silent(process, TcpAddress("h", 1))


@pytest.mark.qemu
async def test_each_silent_socket_of_a_qemu_is_told_for_what_it_is(
    tmp_path: Path,
    shell: Shell,  # noqa: F811 -- the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is sent to find out: QEMU would read it later."""
    monkeypatch.setattr(inspection, "GREETING_TIMEOUT", 0.3)
    agent = tmp_path / "agent.sock"
    arguments = ("-chardev", f"socket,path={agent},server=on,wait=off,id=agent")
    async with Qemu(system_qemu(), tmp_path, arguments) as running, connected(running.monitors[0]):
        assert "which is no monitor but a device's" in (await shell.run("check", agent))[2]
        assert "another client has this monitor of QEMU" in (await shell.run("check", running.monitors[0]))[2]
        running.process.send_signal(signal.SIGSTOP)
        try:
            state = Path("/proc", str(running.process.pid), "stat")
            await eventually(lambda: ") T " in state.read_text())
            assert "is stopped (SIGSTOP)" in (await shell.run("check", running.monitors[0]))[2]
        finally:
            running.process.send_signal(signal.SIGCONT)


async def test_a_guard_that_has_no_qemu_yet_is_told(
    tmp_path: Path,
    shell: Shell,  # noqa: F811 -- the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inspection, "GREETING_TIMEOUT", 0.3)
    words = ("run", "--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "l"))
    async with guard_process(tmp_path, *words) as process:
        await process.says("waiting for QEMU")
        code, out, err = await shell.run("check", tmp_path / "l")
    assert (code, out) == (69, "")
    assert f"a guard (process {process.process.pid}) listens there. Either it has no QEMU yet" in err


async def test_a_wait_is_told(
    tmp_path: Path,
    shell: Shell,  # noqa: F811 -- the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inspection, "NOTICE_DELAY", 0.02)
    monkeypatch.setattr(inspection, "ANSWER_TIMEOUT", 0.3)
    monkeypatch.setattr(inspection, "GREETING_TIMEOUT", 0.3)
    async with FakeQemu(tmp_path / "q") as fake, guarding(fake.path):
        fake.hold.add("query-status")
        for words in (
            ("check", tmp_path / "guard.sock"),
            ("explain", "--machine", tmp_path / "guard.sock", CAPABILITY),
        ):
            _, _, err = await shell.run(*words)
            if words[0] == "check":
                assert "no answer of QEMU yet, it is busy or hangs. Waiting for 0.3 s at most" in err

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(ignore, tmp_path / "s"):
        assert "no greeting yet. Waiting for 0.3 s at most" in (await shell.run("check", tmp_path / "s"))[2]


@pytest.mark.qemu
@pytest.mark.parametrize("guarded", [False, True], ids=["directly", "behind a guard"])
async def test_a_monitor_that_writes_prettily_is_read(
    tmp_path: Path,
    shell: Shell,  # noqa: F811 -- the fixture
    guarded: bool,
) -> None:
    at = tmp_path / "pretty.sock"
    words = ("-chardev", f"socket,path={at},server=on,wait=off,id=p", "-mon", "chardev=p,mode=control,pretty=on")
    async with Qemu(system_qemu(), tmp_path, words):
        if not guarded:
            await assert_read(shell, at)
            return
        async with guarding(at):
            await assert_read(shell, tmp_path / "guard.sock")


async def assert_read(shell: Shell, at: Path) -> None:  # noqa: F811 -- it is given
    code, said = await shell.json("check", at)
    assert (code, said["machine"]["devices"]) == (0, [])
    code, text, _ = await shell.run("explain", "--machine", at, CAPABILITY)
    assert (code, text.splitlines()[0]) == (0, "migrate-set-capabilities: it passes")
