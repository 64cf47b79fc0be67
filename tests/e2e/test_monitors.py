"""What on QEMU's command line makes a monitor: as we read it, and as a real QEMU does."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from qmpguard.daemon.monitors import monitors, possible_monitors
from qmpguard.demo.lab import system_qemu
from tests.support.guarding import TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

UNIX = "unix:PATH,server=on,wait=off"
#: sent to what may be a monitor: to a multiplexed device, to turn to it; to a debugger's connection, its own command
MUX, GDB = b"\x01c\r\n", b"+$qRcmd,696e666f2076657273696f6e#e8"
#: options that make a monitor, and what is said to it; it can be reached at PATH
MAKES: tuple[tuple[str, bytes], ...] = (
    (f"-monitor {UNIX}", b""),
    (f"--monitor {UNIX}", b""),
    (f"-serial mon:{UNIX}", MUX),
    (f"-serial {UNIX},mux=on", MUX),
    (f"-serial {UNIX},mux", MUX),
    (f"-serial {UNIX},mux=yes", MUX),
    (f"-parallel mon:{UNIX}", MUX),
    (f"-debugcon mon:{UNIX}", MUX),
    (f"-gdb {UNIX}", GDB),
    (f"-gdb mon:{UNIX}", MUX),
    (f"-netdev user,id=n,guestfwd=tcp:10.0.2.9:1-mon:{UNIX.replace(',', ',,')}", MUX),
    (f"-netdev user,id=n,guestfwd=tcp:10.0.2.9:1-{UNIX.replace(',', ',,')},,mux=on", MUX),
    (f"-nic user,guestfwd=tcp:10.0.2.9:1-mon:{UNIX.replace(',', ',,')}", MUX),
    (f"-net user,guestfwd=tcp:10.0.2.9:1-mon:{UNIX.replace(',', ',,')}", MUX),
    ("-chardev socket,id=c,path=PATH,server=on,wait=off -mon c", b""),
    (f"-name -x -monitor {UNIX}", b""),
)
#: options that make none, though they look so
MAKES_NONE = (
    "-nodefaults -monitor none",
    "-nographic",
    "-serial stdio",
    "-chardev stdio,id=c,mux=on -serial chardev:c",
    "-object secret,id=monitor-qmp,data=x",
    "",
)


@asynccontextmanager
async def started(options: list[str]) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A QEMU with the guard's own monitor beside these options."""
    ours, theirs = socket.socketpair()
    own = ("-chardev", f"socket,id=qmpguard,fd={theirs.fileno()}", "-mon", "chardev=qmpguard,mode=control")
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            *(str(system_qemu()), "-display", "none", "-accel", "tcg", "-M", "pc", "-m", "16", "-S", *options, *own),
            pass_fds=[theirs.fileno()],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        theirs.close()
        try:
            async with asyncio.timeout(TIMEOUT):
                assert b"QMP" in await asyncio.get_running_loop().sock_recv(blocking(ours), 4096)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def blocking(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock


async def opened(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket that QEMU has bound, and listens at in a moment."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                return await asyncio.open_unix_connection(path)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)


@pytest.mark.qemu
@pytest.mark.parametrize(("options", "said"), MAKES)
async def test_what_makes_a_monitor_in_qemu_is_found(tmp_path: Path, options: str, said: bytes) -> None:
    words = options.replace("PATH", str(tmp_path / "m")).split()
    async with started(["-nodefaults", *words]):
        await eventually((tmp_path / "m").exists)
        reader, writer = await opened(tmp_path / "m")
        async with asyncio.timeout(TIMEOUT):
            writer.write(said)
            answer = b"$O" if said is GDB else b"(qemu)"  # O: output of a command
            heard = b""
            while answer not in heard:
                piece = await reader.read(4096)
                assert piece, heard
                heard += piece
        writer.close()
    assert len(list(monitors(["qemu", *words]))) == 1


@pytest.mark.qemu
@pytest.mark.parametrize("options", MAKES_NONE)
async def test_what_makes_none_in_qemu_is_let_through(options: str) -> None:
    async with started(options.split()) as process:
        assert process.stdin is not None
        process.stdin.write(b"\x01c\ninfo version\n\x01c\n")
        process.kill()
        heard, _ = await process.communicate()
        assert b"(qemu)" not in heard
    assert list(monitors(["qemu", *options.split()])) == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("qemu -qmp unix:x", ["-qmp unix:x"]),
        ("qemu --qmp-pretty unix:x -m 1", ["-qmp-pretty unix:x"]),
        ("qemu -mon chardev=a -monitor vc", ["-mon chardev=a", "-monitor vc"]),
        ("qemu -monitor none -qmp none -serial stdio -object secret,id=monitor-qmp", []),
        ("qemu -s", ["-s"]),
        ("qemu -serial mon:stdio", ["-serial mon:stdio"]),
        ("qemu -serial unix:x,mux=off", []),
        ("qemu -serial unix:x,mux=off,mux=on", ["-serial unix:x,mux=off,mux=on"]),
        ("qemu -object monitor-qmp,id=a", ["-object monitor-qmp,id=a"]),
        ("qemu -object qom-type=monitor-hmp,id=a", ["-object qom-type=monitor-hmp,id=a"]),
        ("qemu -object id=a,qom-type=monitor-hmp", ["-object id=a,qom-type=monitor-hmp"]),
        ("qemu -object {'id':'a','qom-type':'monitor-hmp'}", ["-object {'id':'a','qom-type':'monitor-hmp'}"]),
        ('qemu -object {"qom-type":"monitor-qmp"}', ['-object {"qom-type":"monitor-qmp"}']),
        ("-qmp", []),
        ("qemu -qmp", ["-qmp "]),
        ("qemu -gdb none -netdev user,id=n,guestfwd=tcp:1:2-cmd:x", []),
    ],
)
def test_monitors_on_a_command_line_are_found(words: str, found: list[str]) -> None:
    assert list(monitors(words.split())) == found


@pytest.mark.parametrize(
    "text", ['[mon "m"]\n chardev = "c"\n', "  [mon]\n", '[object "o"]\n qom-type = "monitor-qmp"\n']
)
def test_a_monitor_in_a_file_of_options_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text('[memory]\n size = "1G"\n' + text)
    assert list(monitors(["qemu", "-readconfig", f"{tmp_path}/f"])) == [f"-readconfig {tmp_path}/f"]


def test_what_may_be_one_is_found(tmp_path: Path) -> None:
    (tmp_path / "f").write_text('[memory]\n size = "1G"\n[device "mon"]\n')
    for path in (tmp_path / "f", tmp_path / "absent", tmp_path, tmp_path / "a\0b"):
        assert list(monitors(["qemu", "-readconfig", str(path)])) == []
        assert list(possible_monitors(["qemu", "-readconfig", str(path)])) == [f"-readconfig {path}"]
