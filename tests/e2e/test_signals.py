"""Signals to the real process, at every moment of its life: none is lost, none kills it, and it ends when told to."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpguard.daemon.child import Child
from qmpguard.signals import EXIT_HUNG
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, connected, eventually
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture

if TYPE_CHECKING:
    from asyncio.subprocess import Process

RUN = (sys.executable, "-X", "dev", "-W", "error", "-m", "qmpguard")
#: Seconds after the first moment of the program at which a signal is sent: a guard is ready after 0.2 to 0.5 s, so
#: these fall before, into and behind each part of the start.
MOMENTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)


async def start(*words: str, **options: object) -> Process:
    """Start a guard; Python itself is not the program's first moment, so wait until signals are blocked."""
    process = await start_process(*RUN, *words, stderr=asyncio.subprocess.PIPE, **options)
    await eventually(lambda: is_held(process.pid))
    return process


def is_held(pid: int) -> bool:
    """Whether a process blocks SIGUSR1, or has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return True
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
    return bool(mask & 1 << (signal.SIGUSR1 - 1))


async def ended(process: Process) -> tuple[int, str]:
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT):
        said = (await process.stderr.read()).decode()
        assert "Traceback" not in said
        return await process.wait(), said


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_signal_that_is_no_end_ends_nothing_however_early_it_comes(moment: float, tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        process = await start("run", "--qemu", str(qemu.path), "--listen", str(tmp_path / "g"))
        await asyncio.sleep(moment)
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1):
            process.send_signal(number)
        await eventually((tmp_path / "g").exists)
        async with connected(tmp_path / "g") as qmp:
            assert "return" in await qmp.ask("query-status")
        process.terminate()
        code, said = await ended(process)
        assert code == 0
        assert (
            said.count("reloaded: no change") <= 1
        )  # none where the config was read after the signal, or is being read


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_signal_to_end_ends_it_well_however_early_it_comes(
    number: signal.Signals, moment: float, tmp_path: Path
) -> None:
    process = await start("run", "--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "g"))
    await asyncio.sleep(moment)
    process.send_signal(number)
    code, _ = await ended(process)
    assert code == 0
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize("moment", MOMENTS)
async def test_while_it_ends_no_signal_kills_it(moment: float, tmp_path: Path) -> None:
    process = await start("run", "--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "g"))
    await eventually((tmp_path / "g").exists)
    process.terminate()
    await asyncio.sleep(moment / 4)
    for number in (signal.SIGUSR1, signal.SIGHUP):
        if process.returncode is None:
            # the process's own method may take the exit status away from the task that waits for it
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
    code, _ = await ended(process)
    assert code == 0


async def test_a_second_signal_to_end_ends_it_at_once(tmp_path: Path) -> None:
    """A reply is under way, for which the guard would wait."""
    async with FakeQemu(tmp_path / "q") as qemu:
        process = await start("run", "--qemu", str(qemu.path), "--listen", str(tmp_path / "g"))
        await eventually((tmp_path / "g").exists)
        async with connected(tmp_path / "g") as qmp:
            qemu.hold.add("query-status")
            qmp.send({"execute": "query-status"})
            await qemu.until("query-status")
            process.terminate()
            assert process.stderr is not None
            while b"stopping" not in await process.stderr.readline():
                pass
            process.terminate()
            code, said = await ended(process)
    assert code == 128 + signal.SIGTERM
    assert "ending at once" in said


async def test_a_config_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """At the start, and in a reload, whose thread never ends."""
    config = tmp_path / "c"
    os.mkfifo(config)
    process = await start("run", "--config", str(config))
    await asyncio.sleep(0.5)
    process.terminate()
    assert (await ended(process))[0] == 0
    config.unlink()
    config.write_text(f'[[vm]]\nname="a"\nqemu="{tmp_path}/q"\nlisten="{tmp_path}/g"\n')
    process = await start("run", "--config", str(config))
    await eventually((tmp_path / "g").exists)
    config.unlink()
    os.mkfifo(config)
    process.send_signal(signal.SIGHUP)
    await asyncio.sleep(0.5)
    process.terminate()
    await ended(process)
    assert not (tmp_path / "g").exists()


async def test_a_standard_error_that_nobody_reads_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """A pipe that nobody reads, as standard error: the process may hang in a write, and is ended all the same."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    process = await start_process(
        *RUN, "run", "--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "g"), stderr=writing
    )
    os.close(writing)
    await eventually(lambda: is_held(process.pid))
    await asyncio.sleep(1.0)
    process.terminate()
    async with asyncio.timeout(TIMEOUT):
        assert await process.wait() in {0, EXIT_HUNG}
    os.close(reading)


#: what stands for QEMU: it says that it runs, and ends by a signal
QEMU = "import os, sys, time\nopen(sys.argv[1], 'w').close()\ntime.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_signal_for_qemu_reaches_it_or_keeps_it_from_running(
    number: signal.Signals, moment: float, tmp_path: Path
) -> None:
    process = await start(
        *("exec", "--listen", str(tmp_path / "g"), "--", sys.executable, "-S", "-c", QEMU, str(tmp_path / "runs"))
    )
    await asyncio.sleep(moment)
    process.send_signal(number)
    async with asyncio.timeout(TIMEOUT):
        assert process.stderr is not None
        await process.stderr.read()  # it ends with the last process that has it: QEMU would
        code = await process.wait()
    assert code in {128 + number, 1}  # 1: Python stands for QEMU, and turns SIGINT into an exception
    assert not (tmp_path / "g").exists()


#: what stands for QEMU: it writes down what it was started with
LOOKS = """
import os, resource, shutil, sys
shutil.copyfile("/proc/self/status", sys.argv[1])
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], *(os.readlink(f"/proc/self/fd/{n}") for n in range(3, 99)
    if os.path.exists(f"/proc/self/fd/{n}") or os.path.islink(f"/proc/self/fd/{n}")), file=open(sys.argv[2], "w"))
"""


async def test_qemu_starts_with_no_signal_blocked_and_the_limit_and_descriptors_that_are_its_own(
    tmp_path: Path,
) -> None:
    clients, other = socket.create_server(("127.0.0.1", 0)), socket.socketpair()
    with clients, other[0], other[1]:
        process = await start(
            *("exec", "--listen", f"fd:{clients.fileno()}", "--", sys.executable, "-S", "-c", LOOKS),
            *(str(tmp_path / "status"), str(tmp_path / "seen")),
            pass_fds=[clients.fileno(), other[0].fileno()],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (777, 4096)),
        )
        await ended(process)
    status = dict(line.split(":\t", 1) for line in (tmp_path / "status").read_text().splitlines() if ":\t" in line)
    assert int(status["SigBlk"], 16) == 0
    limit, *sockets = (tmp_path / "seen").read_text().split()
    assert limit == "777"
    assert len(sockets) == 1, "the clients' socket, and what else was passed to the guard, are not for QEMU"


async def test_a_signal_that_comes_before_qemu_runs_keeps_it_from_running(tmp_path: Path) -> None:
    with closing(Child(["touch", str(tmp_path / "ran")], 1024)) as child:
        os.close(child.detach())
        child.forward(signal.SIGHUP)
        child.forward(signal.SIGTERM)
        child.start()
        await child.ended()
        child.forward(signal.SIGTERM)  # it is too late for anything
        assert child.status == 128 + signal.SIGHUP
    assert not (tmp_path / "ran").exists()


#: the program up to where it loads its command line; it prints whether SIGUSR1 is blocked there
BEGINS = """
import signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "qmpguard.cli":
            print(signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            sys.exit(0)
sys.meta_path.insert(0, Finder())
from qmpguard.__main__ import start
start()
"""


@pytest.mark.parametrize(("command", "held"), [("run", "True"), ("exec", "True"), ("check", "False"), ("", "False")])
async def test_signals_are_held_before_anything_else_is_loaded(command: str, held: str) -> None:
    process = await start_process(sys.executable, "-c", BEGINS, *command.split(), stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0].decode().strip() == held


#: the process, whose event loop hangs when it is ready
HANGS = """
import sys, time
import qmpguard.signals
qmpguard.signals.STOP_TIMEOUT = 0.5
import qmpguard.daemon.serve as serve
async def hang(*_):
    print("hangs", file=sys.stderr, flush=True)
    while True:
        time.sleep(1)
serve._announce = hang
from qmpguard.__main__ import start
sys.exit(start())
"""


@pytest.mark.parametrize("signals", [1, 2])
async def test_an_event_loop_that_hangs_does_not_keep_the_process(signals: int, tmp_path: Path) -> None:
    process = await start_process(
        *(sys.executable, "-c", HANGS, "run", "--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "g")),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    while b"hangs" not in await process.stderr.readline():
        pass
    process.terminate()
    if signals == 2:
        await asyncio.sleep(0.1)
        process.terminate()
    code, said = await ended(process)
    assert code == (EXIT_HUNG if signals == 1 else 128 + signal.SIGTERM)
    assert ("ending after 0.5 s: something hangs" if signals == 1 else "ending at once") in said
