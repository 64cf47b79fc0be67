"""A fault of the admin interface stays in it: every handler and every task is made to fail, and all else goes on."""

from __future__ import annotations

import ast
import asyncio
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

import qmpguard.admin
from qmpguard.admin.event_stream import EventStream
from qmpguard.admin.routes import Routes
from qmpguard.admin.server import Admin
from qmpguard.admin.sse import EventFeed
from tests.e2e.test_reload import running, table
from tests.support.descriptors import open_files
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, Client, connected, eventually, guarding
from tests.support.visiting import AdminClient, visiting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SOURCES = sorted(Path(qmpguard.admin.__file__).parent.glob("*.py"))
#: every path of the admin interface, and its handler
HANDLERS = {
    "/": "page",
    "/healthz": "healthz",
    "/readyz": "readyz",
    "/metrics": "metrics",
    "/openapi.json": "openapi",
    "/api/v1/vms": "vms",
    "/api/v1/vms/test": "vm",
    "/api/v1/decisions": "decisions",
    "/api/v1/rules": "rules",
    "/api/v1/stream": "stream",
}
#: every task of the admin interface, and what of it is made to fail
TASKS = {
    "admin-feed": (Admin, "_run_feed"),
    "admin-socket": (Admin, "_restore_socket_file"),
    "admin-connection": (Admin, "_serve"),
}


async def fail(*_: object) -> None:
    """What raises in the place of a coroutine."""
    raise RuntimeError("odd")


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[tuple[AdminClient, Client]]:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        visiting(tmp_path, guard) as visitor,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        yield visitor, qmp


def started() -> set[str]:
    """The names of the tasks that the source starts; a task that is started in another way is none of ours."""
    names = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in {"create_task", "ensure_future"}, source
                if node.func.attr == "start":
                    assert isinstance(node.args[0], ast.Constant), f"{source}: a task's name is written out"
                    names.add(str(node.args[0].value))
    return names


def test_every_task_is_in_the_table() -> None:
    assert started() == TASKS.keys()


def test_every_handler_is_in_the_table() -> None:
    handlers = {name for name, value in vars(Routes).items() if asyncio.iscoroutinefunction(value)}
    assert handlers == set(HANDLERS.values())


@pytest.mark.parametrize("name", sorted(started()))
async def test_a_task_that_fails_ends_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setattr(*TASKS[name], fail)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard) as visitor:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "admin.sock")
        admin = visitor.admin
        assert admin is not None
        await eventually(lambda: admin._tasks.faults[name] == 1)
        if name == "admin-connection":
            assert await reader.read() == b""
            assert not admin._connections
        writer.close()
        monkeypatch.undo()
        assert (await visitor.get("/healthz"))[0] == 200
        async with connected(tmp_path / "guard.sock") as qmp:
            assert "return" in await qmp.ask("query-status")
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize("path", HANDLERS)
async def test_a_handler_that_fails_answers_500_and_the_next_request_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    monkeypatch.setattr(Routes, HANDLERS[path], fail)
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard, visiting(tmp_path, guard) as visitor:
        for _ in range(3):
            assert (await visitor.get(path))[0] == 500
        other = "/healthz" if path != "/healthz" else "/readyz"
        assert (await visitor.get(other))[0] == 200
        async with connected(tmp_path / "guard.sock") as qmp:
            assert "return" in await qmp.ask("query-status")
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_stream_that_fails_ends_alone(
    place: tuple[AdminClient, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor, qmp = place
    async with visitor.stream("?kinds=event") as one, visitor.stream("?kinds=decision") as other:
        await one.next("vm")
        await other.next("vm")
        step = EventFeed._next_message

        def odd(feed: EventFeed, stream: EventStream) -> bytes | None:
            if "event" in stream.kinds:
                raise RuntimeError("odd")
            return step(feed, stream)

        monkeypatch.setattr(EventFeed, "_next_message", odd)
        await qmp.ask("migrate", {"uri": "tcp:one:1"})
        assert (await other.next("decision"))["command"] == "migrate"
        with pytest.raises((aiohttp.ClientError, AssertionError)):
            await one.next()


async def test_a_vm_whose_state_cannot_be_told_keeps_no_other_from_being_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with guarding(tmp_path / "q1", tmp_path / "g1", up=False) as one:
        vms = [Odd(), one.vm]
        feed = EventFeed(lambda: vms, one.vm.journal.run)  # type: ignore[arg-type, return-value]
        with feed.stream(since=None, vm=None, kinds=frozenset({"link"}), drop=lambda: None) as stream:
            told = b""
            async with asyncio.timeout(TIMEOUT):
                while not (feed._faults.drops["fault"] and told.count(b"event: vm\n")):  # a slice of work each time
                    told += await feed.next(stream, 0.05) or b""
        assert told.count(b"event: vm\n") == 1


class Odd:
    """A VM whose snapshot raises."""

    name = "odd"

    def __init__(self) -> None:
        from qmpguard.record import Journal, Run

        self.journal = Journal("odd", Run())

    def snapshot(self) -> None:
        raise RuntimeError("odd")


async def test_a_process_without_descriptors_answers_again_when_it_has_some(tmp_path: Path) -> None:
    admin, config = tmp_path / "admin.sock", tmp_path / "c.toml"
    async with FakeQemu(tmp_path / "q") as qemu:
        config.write_text(f'[admin]\nlisten = "{admin}"\n' + table("one", qemu.path))
        async with running(config) as guard:
            await guard.says(" ready: ")
            pid = guard.process.pid
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            highest = max(open_files(pid))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
            reader, writer = await asyncio.open_unix_connection(admin)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await guard.says("cannot accept")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            async with asyncio.timeout(TIMEOUT):
                assert b"200 OK" in await reader.readline()
            writer.close()
