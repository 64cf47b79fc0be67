"""Signals to the real process, at every moment of its life: none is lost, none kills it, and it ends when told to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpguard.signals import HUNG
from tests.fakes.qemu import FakeQemu
from tests.guarding import PATIENCE, connected, eventually

if TYPE_CHECKING:
    from asyncio.subprocess import Process

RUN = (sys.executable, "-X", "dev", "-W", "error", "-m", "qmpguard")
#: Seconds after the first moment of the program at which a signal is sent: a guard is ready after 0.2 to 0.5 s, so
#: these fall before, into and behind each part of the start.
MOMENTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6)


async def start(*words: str, **options: object) -> Process:
    """Start a guard; Python itself is not the program's first moment, so wait until signals are blocked."""
    process = await asyncio.create_subprocess_exec(*RUN, *words, stderr=asyncio.subprocess.PIPE, **options)  # type: ignore[arg-type]
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
    async with asyncio.timeout(PATIENCE):
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
        assert said.count("reloaded: no change") == 1 or moment < 0.05  # else the config was read after the signal


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
            process.send_signal(number)
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


async def test_an_event_loop_that_hangs_does_not_hold_up_the_end_for_ever(tmp_path: Path) -> None:
    """A pipe that nobody reads, as standard error: the process may hang in a write, and is ended all the same."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    process = await asyncio.create_subprocess_exec(
        *RUN, "run", "--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "g"), stderr=writing
    )
    os.close(writing)
    await eventually(lambda: is_held(process.pid))
    await asyncio.sleep(1.0)
    process.terminate()
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() in {0, HUNG}
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
    async with asyncio.timeout(PATIENCE):
        assert process.stderr is not None
        await process.stderr.read()  # it ends with the last process that has it: QEMU would
        code = await process.wait()
    assert code in {128 + number, 1}  # 1: Python stands for QEMU, and turns SIGINT into an exception
    assert not (tmp_path / "g").exists()


async def test_qemu_starts_with_no_signal_blocked_and_the_limits_and_descriptors_of_a_shell(tmp_path: Path) -> None:
    script = "cat /proc/self/status > status; ulimit -Sn > limit; ls -l /proc/self/fd > fds"
    process = await start(
        *("exec", "--listen", str(tmp_path / "g"), "--", "sh", "-c", f"cd {tmp_path}; {script}"),
        preexec_fn=lambda: __import__("resource").setrlimit(7, (777, 4096)),
    )
    await ended(process)
    status = dict(line.split(":\t", 1) for line in (tmp_path / "status").read_text().splitlines() if ":\t" in line)
    assert int(status["SigBlk"], 16) == 0
    assert not int(status["SigIgn"], 16) & 1 << (signal.SIGPIPE - 1)
    assert (tmp_path / "limit").read_text() == "777\n"
    sockets = [line for line in (tmp_path / "fds").read_text().splitlines() if "socket:" in line]
    assert len(sockets) == 1, "the guard's end, and the clients' socket, are not for QEMU"
