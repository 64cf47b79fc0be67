"""The programs and libraries themselves: each asks what it can, and writes down what it was told."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qmp
from qemu.qmp import EventListener, ExecuteError, QMPClient
from qemu.qmp.legacy import QEMUMonitorProtocol

from tests.support.clients.sameness import plain
from tests.support.clients.tools import OFF, ON
from tests.support.guarding import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence


def qmp_client(path: Path) -> list[str]:
    """qemu.qmp's QMPClient: with out-of-band, a descriptor ahead of its request, and ten requests at a time."""
    with Path(os.devnull).open("rb") as file:
        return asyncio.run(_qmp_client(path, file.fileno()))


async def _qmp_client(path: Path, descriptor: int) -> list[str]:
    heard: list[str] = []
    client = QMPClient("test")

    async def ask(command: str, arguments: dict[str, Any] | None = None, *, oob: bool = False) -> None:
        try:
            heard.append(plain(await client.execute(command, arguments, oob=oob)))
        except ExecuteError as error:
            heard.append(f"{error.error_class}: {error}")

    async with asyncio.timeout(TIMEOUT):
        await client.connect(str(path))
        try:
            assert client.greeting is not None
            heard.append(plain(client.greeting._asdict()))
            events = EventListener()
            with client.listen(events):
                await ask("query-status")
                await ask("no-such-command")
                client.send_fd_scm(descriptor)
                await ask("getfd", {"fdname": "test"})
                await ask("closefd", {"fdname": "test"})
                await ask("query-qmp-schema")
                await asyncio.gather(*(ask("query-yank", oob=True) for _ in range(10)))
                await asyncio.gather(*(ask("query-name") for _ in range(10)))
                await ask("stop")
                await ask("cont")
                await ask("migrate-set-capabilities", ON)
                await ask("migrate-set-capabilities", OFF)
                heard += [str((await events.get())["event"]) for _ in range(2)]
        finally:
            await client.disconnect()
    return heard


def legacy(path: Path) -> list[str]:
    """qemu.qmp.legacy, on which QEMU's own tests and qmp-shell stand: no id."""
    monitor = QEMUMonitorProtocol(str(path))
    monitor.settimeout(TIMEOUT)
    heard = [plain(monitor.connect())]
    try:
        heard += [plain(monitor.cmd_raw(command, arguments)) for command, arguments in _REQUESTS]
        heard += [str(event["event"]) for event in monitor.get_events()]
    finally:
        monitor.close()
        monitor._aloop.close()
        asyncio.set_event_loop(None)
    return heard


def qmp_package(path: Path) -> list[str]:
    """The `qmp` package of PyPI: no newline, and an id that may be anything."""
    with closing(qmp.QEMUMonitorProtocol(str(path))) as monitor:
        monitor.settimeout(TIMEOUT)
        heard = [plain(monitor.connect())]
        heard += [plain(monitor.cmd(command, arguments)) for command, arguments in _REQUESTS]
        heard += [plain(monitor.cmd("query-name", cmd_id=own)) for own in (7, "a", [1, {}], {"a": None}, 2.5)]
        heard += [str(event["event"]) for event in monitor.get_events()]
    return heard


_REQUESTS: Sequence[tuple[str, dict[str, Any]]] = (
    ("query-status", {}),
    ("query-commands", {}),
    ("qom-list", {"path": "/machine/peripheral"}),
    ("qom-list", {"path": "/nothing"}),
    ("no-such-command", {}),
    ("query-qmp-schema", {}),
    ("stop", {}),
    ("cont", {}),
    ("migrate-set-capabilities", ON),
    ("migrate-set-capabilities", OFF),
    ("query-migrate", {}),
)


def qmp_shell(path: Path) -> list[str]:
    """qmp-shell on a terminal, pretty and verbose."""
    lines = (
        "query-status",
        "qom-list path=/machine/peripheral",
        "no-such-command",
        "this is no command",
        "stop",
        "cont",
        "",  # shows the events
        'migrate-set-capabilities capabilities=[{"capability":"postcopy-ram","state":true}]',
        'migrate-set-capabilities capabilities=[{"capability":"postcopy-ram","state":false}]',
        "query-migrate",
    )
    return _on_a_terminal([_script("qmp-shell"), "-p", "-v", str(path)], lines)


def qmp_shell_hmp(path: Path) -> list[str]:
    """qmp-shell -H on a terminal: a human monitor inside QMP."""
    lines = (
        "info status",
        "info version",
        "frobnicate",
        "stop",
        "cont",
        "cpu 5",
        "migrate_set_capability postcopy-ram on",
        "migrate_set_capability postcopy-ram off",
        "info migrate",
    )
    return _on_a_terminal([_script("qmp-shell"), "-H", str(path)], lines)


def socat(path: Path) -> list[str]:
    """socat, by which people and scripts talk to QEMU: everything at once, and then the end."""
    lines = (
        '{"execute": "qmp_capabilities"}',
        '{"execute": "query-status"}',
        "{ 'execute': 'qom-list',\n  'arguments': { 'path': '/machine/peripheral' } }",
        '{"execute": "stop"} {"execute": "cont"}',
        json.dumps({"execute": "migrate-set-capabilities", "arguments": ON}),
        json.dumps({"execute": "migrate-set-capabilities", "arguments": OFF}),
        '{"execute": "query-migrate", "id": "last"}',
    )
    command = ("socat", "-t", str(TIMEOUT), "-", f"UNIX-CONNECT:{path}")
    sent = "\n".join(lines).encode()
    done = subprocess.run(command, input=sent, stdout=subprocess.PIPE, timeout=TIMEOUT, check=True)
    return plain(done.stdout.decode()).splitlines()


def _script(name: str) -> str:
    """A program that a package has installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def _on_a_terminal(command: list[str], lines: Sequence[str], prompt: bytes = b"(QEMU) ") -> list[str]:
    """Type lines at a program's prompts, and an end of file; return what stands on the terminal between the prompts."""
    ours, theirs = pty.openpty()
    with tempfile.TemporaryDirectory() as home:
        surroundings = {**os.environ, "TERM": "dumb", "HOME": home, "COLUMNS": "1000"}
        program = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=surroundings)
        os.close(theirs)
        try:
            shown = [_read_until(ours, prompt)]
            for line in lines:
                os.write(ours, line.encode() + b"\n")
                shown.append(_read_until(ours, prompt))
            os.write(ours, b"\x04")  # end of file
            program.wait(TIMEOUT)
        finally:
            program.kill()
            program.wait()
            os.close(ours)
    return [plain(text.decode()) for text in shown]


def _read_until(descriptor: int, prompt: bytes) -> bytes:
    received = b""
    while not received.endswith(prompt):
        ready, _, _ = select.select([descriptor], [], [], TIMEOUT)
        assert ready, f"no prompt, only {received!r}"
        received += os.read(descriptor, 1 << 16)
    return received
