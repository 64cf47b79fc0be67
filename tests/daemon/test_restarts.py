"""The process's own tasks: what each of them raises stays there, and what is to last is begun anew."""

from __future__ import annotations

import ast
import asyncio
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import qmpguard
from qmpguard.address import UnixAddress
from qmpguard.config import AdminConfig
from qmpguard.daemon import restarts as module
from qmpguard.daemon.interface import Interface
from qmpguard.daemon.restarts import restore_socket_files, run_with_restarts
from qmpguard.daemon.supervisor import Supervisor
from qmpguard.daemon.systemd import PassedSockets
from qmpguard.errors import UnavailableError
from qmpguard.proxy.judging.schemas import Schemas
from qmpguard.proxy.listening.listener import Listener
from qmpguard.proxy.state.counters import Upkeep
from qmpguard.record import Run
from qmpguard.tasks import Tasks
from tests.support.guarding import TIMEOUT, eventually
from tests.support.started import _none_left, start_process  # noqa: F401 -- a fixture

if TYPE_CHECKING:
    from asyncio.subprocess import Process

SERVE = Path(qmpguard.__file__).with_name("daemon") / "serve.py"


def tasks_of(path: Path) -> set[str]:
    """The names of the tasks that a file starts."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    started = [
        call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "start" and call.args
    ]
    return {str(call.args[0].value) for call in started if isinstance(call.args[0], ast.Constant)}


#: for each task of serve.py, what is made to raise in it, once
RAISES = {
    "watchdog": "qmpguard.daemon.systemd.Notifier.watchdog",
    "console": "qmpguard.daemon.console.Console.run",
    "reload": "qmpguard.daemon.reload.Reloads.run",
    "files": "qmpguard.daemon.serve.restore_socket_files",
    "admin": "qmpguard.admin.server.Admin.run",
    "announce": "qmpguard.daemon.serve._announce",
    "end-with-qemu": "qmpguard.daemon.serve._end_with_qemu",
}
#: the process, in which something raises when it has run a little for the first time
FAULTY = """
import importlib, sys
from qmpguard.__main__ import start
import qmpguard.daemon.serve
import qmpguard.daemon.restarts as restarts
restarts.FIRST_DELAY = 0.05
owner, name = sys.argv.pop(1).rsplit(".", 1)
try:
    owner = importlib.import_module(owner)
except ModuleNotFoundError:
    module, cls = owner.rsplit(".", 1)
    owner = getattr(importlib.import_module(module), cls)
real, calls = getattr(owner, name), []

async def once(*arguments, **options):
    import asyncio
    calls.append(name)
    if len(calls) == 1:
        await asyncio.wait([work := asyncio.ensure_future(real(*arguments, **options))], timeout=0.3)
        work.cancel()
        await asyncio.wait([work])
        raise ZeroDivisionError("made to raise")
    await real(*arguments, **options)

setattr(owner, name, once)
sys.exit(start())
"""


async def faulty(what: str, *words: str) -> Process:
    return await start_process(*(sys.executable, "-c", FAULTY, what, "run", *words), stderr=asyncio.subprocess.PIPE)


def test_every_task_of_the_process_is_made_to_raise() -> None:
    assert tasks_of(SERVE) - {"child"} == set(RAISES), "tests/e2e/test_exec.py has the child"


@pytest.mark.parametrize("task", sorted(RAISES))
async def test_an_exception_in_a_task_of_the_process_stays_there(task: str, tmp_path: Path) -> None:
    words = ("--qemu", str(tmp_path / "q"), "--listen", str(tmp_path / "g"), "--admin", str(tmp_path / "a"))
    process = await faulty(RAISES[task], *words, "--end-with-qemu")
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT):
        while f"task={task} failed: ZeroDivisionError".encode() not in (line := await process.stderr.readline()):
            assert line, "it ended"
        if task != "announce":
            while f"task={task} restarts in 0.05 s".encode() not in (line := await process.stderr.readline()):
                assert line, "it ended"
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "g")  # clients still come in
        writer.close()
        process.terminate()
        await process.stderr.read()
        assert await process.wait() == 0
    assert reader is not None


async def test_work_that_fails_again_and_again_is_begun_anew_ever_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(module, "MAX_DELAY", 0.004)
    left = [ValueError(), OSError(), MemoryError(), KeyError()]

    async def work() -> None:
        if left:
            raise left.pop()

    async with Tasks() as tasks:
        await run_with_restarts(tasks, "work", work)
    assert tasks.faults == {"work": 4}
    delays = [r.getMessage() for r in caplog.records if "restarts" in r.getMessage()]
    assert delays == [f"task=work restarts in {delay} s" for delay in ("0.001", "0.002", "0.004", "0.004")]


async def test_files_of_many_sockets_are_looked_after_by_one_task(tmp_path: Path) -> None:
    def nobody(*_: Any) -> None:
        raise AssertionError

    listeners: list[Listener | None] = [Listener(UnixAddress(str(tmp_path / f"{i}")), nobody) for i in range(150)]
    now = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(restore_socket_files(lambda: [None, *listeners], now))
        await asyncio.sleep(0.01)
        for path in tmp_path.iterdir():
            path.unlink()
        now.set()  # as SIGHUP does
        await eventually(lambda: len(list(tmp_path.iterdir())) == 150)
        task.cancel()
    for listener in listeners:
        if listener is not None:
            with closing(listener):
                assert listener.has_socket_file


async def test_an_admin_socket_that_cannot_be_had_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no socket")
    async with asyncio.TaskGroup() as group, Tasks() as tasks:
        fleet = Supervisor(group, Schemas(), PassedSockets(), Run())  # type: ignore[arg-type,unused-ignore]
        config = AdminConfig(UnixAddress(str(tmp_path / "a")))
        interface = Interface(config, fleet, PassedSockets(), Run(), Upkeep)
        tasks.start("admin", interface.run())
        with pytest.raises(ExceptionGroup) as caught:
            await interface.opened()
    assert caught.group_contains(UnavailableError, match="cannot listen at", depth=1)
