"""The guard as a service: started by a socket, killed and started again, with the tools of a real systemd."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from tests.support.descriptors import open_sockets
from tests.support.guarding import TIMEOUT, connected, eventually
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator, Sequence

RUN = (sys.executable, "-m", "qmpguard", "run")
#: what a service manager does for a process: descriptors stand from 3 on, and LISTEN_PID is its own number
AS_SERVICE = """\
import os, sys
passed = [os.dup(int(number)) for number in sys.argv[1].split(":")]
safe = [os.dup2(number, 100 + i) for i, number in enumerate(passed)]
for i, number in enumerate(safe):
    os.dup2(number, 3 + i)
    os.close(number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": sys.argv[2]}
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture(scope="module")
def activate() -> str:
    found = shutil.which("systemd-socket-activate")
    assert found, "systemd-socket-activate is not here: `make packages` installs it (Debian: systemd)"
    return found


@asynccontextmanager
async def process(
    *command: str, descriptors: Sequence[int] = (), environ: dict[str, str] | None = None
) -> AsyncGenerator[Process]:
    started = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **(environ or {})}, pass_fds=descriptors
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


@asynccontextmanager
async def manager(path: Path) -> AsyncGenerator[asyncio.Queue[str]]:
    """What a service manager at ``path`` is told."""
    told: asyncio.Queue[str] = asyncio.Queue()

    class Hearing(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            told.put_nowait(data.decode())

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Hearing, sock=sock)
    try:
        yield told
    finally:
        transport.close()


async def until(told: asyncio.Queue[str], text: str) -> list[str]:
    """What is told before a text."""
    before = []
    async with asyncio.timeout(TIMEOUT):
        while (heard := await told.get()) != text:
            before.append(heard)
    return before


@pytest.mark.qemu
async def test_the_first_client_starts_the_guard_and_its_socket_outlives_it(tmp_path: Path, activate: str) -> None:
    path = tmp_path / "qmp.sock"
    async with Qemu(system_qemu(), tmp_path, monitors=1) as qemu:
        path_of_qemu = f"QMPGUARD_QEMU={qemu.monitors[0]}"
        command = (activate, "--listen", str(path), "--fdname", "qmp", "-E", path_of_qemu, *RUN)
        async with process(*command) as guard:
            async with asyncio.timeout(TIMEOUT):
                while not path.exists():  # noqa: ASYNC110 -- the tool says on its stderr only that it listens
                    await asyncio.sleep(0.005)
            mode = path.stat().st_mode
            async with connected(path) as qmp:
                assert (await qmp.ask("query-status"))["return"]["status"] == "running"
                assert path.stat().st_mode == mode
                guard.terminate()
                assert await qmp.closed()
            assert await guard.wait() == 0
        assert path.exists(), "the socket is systemd's: the guard must not remove it"


@pytest.mark.qemu
async def test_a_killed_guard_is_started_again_and_the_next_client_is_served(tmp_path: Path) -> None:
    path = tmp_path / "qmp.sock"
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(path))
        held.listen()
        async with Qemu(system_qemu(), tmp_path) as qemu:
            service = (
                sys.executable,
                "-c",
                AS_SERVICE,
                str(held.fileno()),
                "qmp",
                *RUN,
                "--qemu",
                str(qemu.monitors[0]),
            )
            async with process(*service, descriptors=[held.fileno()]) as guard, connected(path) as qmp:
                assert "return" in await qmp.ask("query-status")
                guard.kill()
                assert await qmp.closed()
                await guard.wait()
            waiting = connected(path)  # comes while there is no guard
            async with process(*service, descriptors=[held.fileno()]), waiting as qmp:
                assert "return" in await qmp.ask("query-status")
                assert qemu.process.returncode is None


class Store:
    """A service manager's descriptor store, as sd_notify(3) describes it."""

    def __init__(self, path: Path) -> None:
        self.kept: dict[str, list[int]] = {}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock, self._told)

    def _told(self) -> None:
        text, numbers, _, _ = socket.recv_fds(self._sock, 4096, 8)
        told = dict(line.split("=", 1) for line in text.decode().splitlines())
        if "FDSTORE" in told:
            self.kept.setdefault(told["FDNAME"], []).extend(numbers)
            return
        for number in numbers + (self.kept.pop(told["FDNAME"]) if "FDSTOREREMOVE" in told else []):
            os.close(number)

    def pass_on(self) -> tuple[list[str], list[int]]:
        return [name for name, numbers in self.kept.items() for _ in numbers], [
            n for ns in self.kept.values() for n in ns
        ]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        for number in self.pass_on()[1]:
            os.close(number)


@pytest.mark.qemu
@pytest.mark.parametrize("end", ["terminated", "killed"])
async def test_a_restart_keeps_the_connection_to_qemu_and_a_killed_guard_leaves_none(tmp_path: Path, end: str) -> None:
    path = tmp_path / "qmp.sock"
    with socket.socket(socket.AF_UNIX) as held, closing(Store(tmp_path / "notify")) as store:
        held.bind(str(path))
        held.listen()
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        async with Qemu(system_qemu(), tmp_path) as qemu:
            first: set[str] = set()
            for guard_number in range(3):  # an heir leaves an inheritance, too
                names, numbers = store.pass_on()
                passing = ":".join(map(str, [held.fileno(), *numbers])), ":".join(["qmp", *names])
                service = (sys.executable, "-c", AS_SERVICE, *passing, *RUN, "--qemu", str(qemu.monitors[0]))
                async with process(*service, descriptors=[held.fileno(), *numbers], environ=environ) as guard:
                    async with connected(path) as qmp:
                        assert "return" in await qmp.ask("query-status")
                        first = first or open_sockets(qemu.process.pid)
                        assert (open_sockets(qemu.process.pid) == first) is (end == "terminated" or guard_number == 0)
                    assert not store.kept, "what is in use is in nobody else's hands"
                    if end == "killed":
                        guard.kill()
                        await guard.wait()
                        assert not store.kept
                        continue
                    guard.terminate()
                    assert await guard.wait() == 0
                    assert [len(numbers) for numbers in store.kept.values()] == [2]
                    assert open_sockets(qemu.process.pid) == first


@asynccontextmanager
async def dialled(inbound: Path, qemu: Qemu) -> AsyncGenerator[Qemu]:
    """A QEMU that is started when there is somebody to connect to."""
    await eventually(inbound.exists)
    async with qemu:
        yield qemu


@pytest.mark.qemu
async def test_qemu_connects_to_a_socket_of_the_service_manager_and_its_guard_may_be_restarted(tmp_path: Path) -> None:
    """As qmpguard-qemu@.socket has it: the unit sets QMPGUARD_QEMU, and a file of variables which socket to use."""
    path, inbound = tmp_path / "qmp.sock", tmp_path / "in.sock"
    dialling = ("-chardev", f"socket,id=out,path={inbound},server=off,reconnect=1", "-mon", "chardev=out,mode=control")
    with socket.socket(socket.AF_UNIX) as held, socket.socket(socket.AF_UNIX) as for_qemu:
        for sock, place in ((held, path), (for_qemu, inbound)):
            sock.bind(str(place))
            sock.listen()
        numbers = [held.fileno(), for_qemu.fileno()]
        service = (sys.executable, "-c", AS_SERVICE, ":".join(map(str, numbers)), "qmp:qemu", *RUN)
        environ = {"QMPGUARD_QEMU": "/nowhere", "QMPGUARD_QEMU_LISTEN": "fd:qemu"}
        async with Qemu(system_qemu(), tmp_path, dialling, monitors=0):  # it waits in the backlog
            for end in (signal.SIGKILL, signal.SIGTERM):
                async with process(*service, descriptors=numbers, environ=environ) as guard, connected(path) as qmp:
                    assert "return" in await qmp.ask("query-status")
                    guard.send_signal(end)
                    assert await guard.wait() == (0 if end == signal.SIGTERM else -end)
                assert inbound.exists(), "the socket is systemd's: the guard must not remove it"


async def test_a_socket_for_qemu_that_was_not_passed_is_told(tmp_path: Path) -> None:
    command = (*RUN, "--qemu-listen", "fd:qemu", "--listen", str(tmp_path / "qmp.sock"))
    started = await start_process(*command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(TIMEOUT):
        _, said = await started.communicate()
    assert b"fd:qemu: no sockets of that name were passed" in said
    assert started.returncode == 78


@pytest.mark.qemu
async def test_a_qemu_that_dialled_in_and_cannot_do_so_again_is_guarded_by_the_next_process(tmp_path: Path) -> None:
    path, inbound = tmp_path / "qmp.sock", tmp_path / "in.sock"
    command = (*RUN, "--qemu-listen", str(inbound))
    dialling = ("-chardev", f"socket,id=out,path={inbound},server=off", "-mon", "chardev=out,mode=control")
    with socket.socket(socket.AF_UNIX) as held, closing(Store(tmp_path / "notify")) as store:
        held.bind(str(path))
        held.listen()
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        start = (sys.executable, "-c", AS_SERVICE)
        async with (
            process(*start, str(held.fileno()), "qmp", *command, descriptors=[held.fileno()], environ=environ) as guard,
            dialled(inbound, Qemu(system_qemu(), tmp_path, dialling, monitors=0)) as qemu,
        ):
            async with connected(path) as qmp:
                assert "return" in await qmp.ask("query-status")
            guard.terminate()
            assert await guard.wait() == 0
            names, numbers = store.pass_on()
            passing = ":".join(map(str, [held.fileno(), *numbers])), ":".join(["qmp", *names])
            descriptors = [held.fileno(), *numbers]
            async with (
                process(*start, *passing, *command, descriptors=descriptors, environ=environ),
                connected(path) as qmp,
            ):
                assert "return" in await qmp.ask("query-status")
                assert qemu.process.returncode is None


@pytest.mark.qemu
async def test_ready_means_that_clients_can_connect_and_the_status_tells_of_qemu(tmp_path: Path) -> None:
    listen = tmp_path / "guard.sock"
    qemu = Qemu(system_qemu(), tmp_path)
    command = (*RUN, "--qemu", str(qemu.monitors[0]), "--listen", str(listen), "--name", "web")
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
    async with manager(tmp_path / "notify") as told, process(*command, environ=environ) as guard:
        before = await until(told, "READY=1")
        assert before[-1] == "STATUS=guarding 0 of 1; waiting for QEMU: web"
        assert listen.exists()
        await until(told, "WATCHDOG=1")
        async with qemu:
            await until(told, "STATUS=guarding 1 VM")
        await until(told, "STATUS=guarding 0 of 1; waiting for QEMU: web")
        guard.terminate()
        await until(told, "STOPPING=1")
        assert await guard.wait() == 0


async def test_a_guard_that_cannot_listen_is_never_ready(tmp_path: Path) -> None:
    command = (*RUN, "--qemu", "/nowhere", "--listen", "fd:absent")
    async with (
        manager(tmp_path / "notify") as told,
        process(*command, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as guard,
    ):
        assert await guard.wait() == 78
        assert "READY=1" not in [told.get_nowait() for _ in range(told.qsize())]


async def test_the_status_follows_a_reload(tmp_path: Path) -> None:
    def vms(*names: str) -> str:
        return "".join(f'[[vm]]\nname="{n}"\nqemu="{tmp_path}/{n}"\nlisten="{tmp_path}/{n}.sock"\n' for n in names)

    config = tmp_path / "guard.toml"
    config.write_text(vms("one", "two"))
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    async with (
        manager(tmp_path / "notify") as told,
        process(*RUN, "--config", str(config), environ=environ) as guard,
    ):
        assert "STATUS=guarding 0 of 2; waiting for QEMU: one, two" in await until(told, "READY=1")
        config.write_text(vms("two"))
        guard.send_signal(signal.SIGHUP)
        reload = await until(told, "READY=1")
        assert reload[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert "STATUS=guarding 0 of 1; waiting for QEMU: two" in reload
