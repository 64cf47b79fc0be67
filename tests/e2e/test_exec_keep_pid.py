"""`exec --keep-pid`: the process becomes QEMU, and the guard is its child."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.descriptors import open_files
from tests.support.guarding import TIMEOUT, connected, eventually

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator, Iterator

QEMU = ("qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-M", "none")


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that listens already, as libvirt passes it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "monitor.sock"))
        sock.listen(1)
        yield sock


async def start(
    listening: socket.socket, *options: str, command: tuple[str, ...] = QEMU, passed: tuple[int, ...] = ()
) -> Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-m", "qmpguard", "exec", "--keep-pid"),
        *("--listen", f"fd:{listening.fileno()}", *options, "--", *command),
        stderr=asyncio.subprocess.PIPE,
        pass_fds=(listening.fileno(), *passed),
        start_new_session=True,
        env={**os.environ, "QMPGUARD_LOG_FORMAT": "text"},
    )
    listening.close()
    return process


@asynccontextmanager
async def running(listening: socket.socket, *options: str, passed: tuple[int, ...] = ()) -> AsyncGenerator[Process]:
    """A guarded QEMU; at the end both have ended, and neither had anything to say of a fault."""
    process = await start(listening, *options, passed=passed)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            while b" ready: " not in (line := await process.stderr.readline()):
                assert line, "it ended before it was ready"
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(TIMEOUT):
            rest = await process.stderr.read()  # until the guard has ended, too: it has the same standard error
            await process.wait()
        assert b"Traceback" not in rest


async def refused(process: Process) -> tuple[int, str]:
    """The exit status, and what was said until all processes had ended."""
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT):
        said = (await process.stderr.read()).decode()
        assert "Traceback" not in said
        return await process.wait(), said


def guard_of(process: Process) -> int:
    (pid,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(pid)


def targets(pid: int) -> set[str]:
    return set(open_files(pid).values())


def fact(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def is_refused(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == errno.ECONNREFUSED


@pytest.mark.qemu
async def test_the_process_becomes_a_qemu_that_has_no_other_monitor(listening: socket.socket, tmp_path: Path) -> None:
    async with running(listening) as process, connected(tmp_path / "monitor.sock") as qmp:
        assert Path(f"/proc/{process.pid}/exe").readlink().name == "qemu-system-x86_64"
        chardevs = (await qmp.ask("query-chardev"))["return"]
        assert [chardev["label"] for chardev in chardevs] == ["qmpguard"]
        qmp.send({"execute": "quit"})
        async with asyncio.timeout(TIMEOUT):
            assert await process.wait() == 0


@pytest.mark.qemu
async def test_a_signal_is_qemus_and_ends_the_guard_with_it(listening: socket.socket, tmp_path: Path) -> None:
    async with running(listening) as process, connected(tmp_path / "monitor.sock"):
        process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(TIMEOUT):
            assert await process.wait() == -signal.SIGKILL


@pytest.mark.qemu
async def test_qemu_keeps_its_descriptors_and_the_guard_its_listening_socket(listening: socket.socket) -> None:
    reader, writer = os.pipe()
    monitor = f"socket:[{os.fstat(listening.fileno()).st_ino}]"
    disk = f"pipe:[{os.fstat(reader).st_ino}]"
    async with running(listening, passed=(reader,)) as process:
        guard = guard_of(process)
        await eventually(lambda: disk in targets(process.pid) - targets(guard))  # when QEMU has begun
        await eventually(lambda: monitor in targets(guard) - targets(process.pid))
    os.close(reader)
    os.close(writer)


async def test_qemu_starts_as_any_program_does(listening: socket.socket) -> None:
    masks = 'grep -E "Sig(Blk|Ign)" /proc/self/status'
    plain = await asyncio.to_thread(subprocess.check_output, ["sh", "-c", f"exec {masks}"], text=True)
    report = f"ulimit -Sn >&2; env >&2; exec {masks} >&2"
    status, said = await refused(await start(listening, "--log-level", "error", command=("sh", "-c", report)))
    assert status == 0
    assert plain in said
    assert said.startswith(f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]}\n")
    assert "QMPGUARD_" not in said


async def test_the_log_leaves_standard_error_to_qemu(listening: socket.socket, tmp_path: Path) -> None:
    log = tmp_path / "guard.log"
    status, said = await refused(await start(listening, "--log-file", str(log), command=("sh", "-c", "echo 1; exit 3")))
    assert (status, said) == (3, "")
    await eventually(lambda: "INFO stopping" in log.read_text())


@pytest.mark.qemu
async def test_clients_of_a_guard_that_is_killed_are_told_at_once(listening: socket.socket, tmp_path: Path) -> None:
    async with running(listening) as process, connected(tmp_path / "monitor.sock") as qmp:
        os.kill(guard_of(process), signal.SIGKILL)
        await qmp.closed()
        await eventually(lambda: is_refused(tmp_path / "monitor.sock"))
        assert process.returncode is None


@pytest.mark.qemu
async def test_a_guard_that_is_told_to_end_does_not_wait_for_qemu(listening: socket.socket, tmp_path: Path) -> None:
    async with running(listening) as process, connected(tmp_path / "monitor.sock") as qmp:
        guard = guard_of(process)
        assert os.getsid(guard) != os.getsid(process.pid)
        os.kill(guard, signal.SIGTERM)
        await qmp.closed()
        await eventually(lambda: fact(guard, "State") == "Z")
        assert process.returncode is None


@pytest.mark.qemu
async def test_a_client_that_waits_is_told_when_qemu_refuses_its_command_line(
    listening: socket.socket, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "monitor.sock"))
        status, said = await refused(await start(listening, command=(*QEMU, "-nonsense")))
        assert status == 1
        assert "-nonsense: invalid option" in said
        client.settimeout(TIMEOUT)
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("options", "command", "says"),
    [
        ((), (), "exec needs QEMU's command line, behind --"),
        ((), ("/no/such/qemu",), "cannot run /no/such/qemu: No such file or directory"),
        ((), ("qemu", "-qmp", "stdio"), "-qmp stdio would open a way around the guard (rule new-monitor)"),
        ((), ("qemu", "--daemonize"), "-daemonize: the guard would end"),
        (("--mode", "nonsense"), ("qemu",), "--mode nonsense"),
        (("--admin", "/no/such/place"), ("qemu",), "/no/such/place"),
        (("--log-file", "/no/such/place"), ("qemu",), "--log-file /no/such/place: No such file or directory"),
        (("--log-file", "/dev/null"), ("qemu",), "--log-file /dev/null: it is a device"),
    ],
)
async def test_qemu_does_not_start_without_a_guard(
    listening: socket.socket, options: tuple[str, ...], command: tuple[str, ...], says: str
) -> None:
    status, said = await refused(await start(listening, *options, command=command))
    assert status in (2, 69, 78)
    assert says in said


async def test_qemu_does_not_start_where_the_guard_is_killed_before_it_is_ready(
    listening: socket.socket, tmp_path: Path
) -> None:
    slow = tmp_path / "token"
    os.mkfifo(slow)
    options = ("--admin", "tcp:127.0.0.1:0", "--admin-token-file", str(slow))
    process = await start(listening, *options, command=("no-qemu",))
    await eventually(lambda: bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()))
    os.kill(guard_of(process), signal.SIGKILL)
    status, said = await refused(process)
    assert status == 69
    assert "SIGKILL before it was ready" in said
