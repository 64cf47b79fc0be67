"""Every task that the process starts is made to raise: its owner notices, another VM and its client do not.

The list is made from the source, so a new task cannot be forgotten.
"""

from __future__ import annotations

import ast
import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import qmpguard
from qmpguard.address import UnixAddress
from qmpguard.daemon.console import Console
from qmpguard.tasks import Tasks
from tests.admin.test_faults import started as admin
from tests.daemon.test_console import ask
from tests.daemon.test_restarts import RAISES
from tests.daemon.test_supervisor import fleet_of, vm
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import capabilities, connected, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

    from qmpguard.daemon.supervisor import Supervisor

PACKAGE = Path(qmpguard.__file__).parent
RUNNING = {"return": {"status": "running", "running": True}}

#: the tasks of VMs, and of what serves them
OF_VMS = {
    "judgment",
    "schema",
    "watch",
    "heartbeat",
    "leave",
    "vm",
    "takeover",
    "conversation",
}
#: those that are tried elsewhere: tests/daemon/test_lasting.py, tests/admin, tests/e2e/test_exec.py
ELSEWHERE = {*RAISES, *admin(), "child"}
#: those that end with what waits for them, and raise nothing that it does not see: drains, `guarding`, demo
WAITED_FOR = {"drain", "left", "bequeath", "guard", "demo log"}


def calls() -> list[tuple[Path, ast.Call]]:
    """Every call of a method in the package."""
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "tasks.py"]
    nodes = [(path, node) for path in files for node in ast.walk(ast.parse(path.read_text()))]
    return [(path, n) for path, n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]


def test_every_task_has_a_name_that_stands_in_a_table() -> None:
    started = {
        str(call.args[0].value)
        for _, call in calls()
        if call.func.attr == "start" and call.args and isinstance(call.args[0], ast.Constant)  # type: ignore[attr-defined]
    }
    assert started == OF_VMS | ELSEWHERE | WAITED_FOR


def test_no_task_is_started_past_its_owner() -> None:
    naked = {"create_task", "ensure_future"}
    found = {(path.name, call.func.attr) for path, call in calls() if call.func.attr in naked}  # type: ignore[attr-defined]
    assert found <= {("vfio_user.py", "create_task")}, "the demo's device is no part of the guard"


class Poisoned:
    """A coroutine in which an exception is raised where it waits first; what it does about that goes on."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, Any, None]:
        steps = self._work.__await__()
        try:
            next(steps)
            waits = steps.throw(ZeroDivisionError())
            while True:
                try:
                    sent = yield waits
                except BaseException as error:  # noqa: BLE001 -- handed on
                    waits = steps.throw(error)
                else:
                    waits = steps.send(sent)
        except StopIteration:
            return


@pytest.mark.parametrize("name", sorted(OF_VMS))
async def test_a_task_that_raises_is_noticed_by_its_owner_only(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = asyncio.Event()
    real = Tasks.start

    def start(
        self: Tasks, task: str, work: Coroutine[Any, Any, None], on_fault: Callable[[Exception], None] | None = None
    ) -> asyncio.Task[None]:
        async def failing() -> None:
            raised.set()
            await Poisoned(work)
            raise ZeroDivisionError

        poisoned = task == name and not raised.is_set() and "vm=two" not in self._label
        return real(self, task, failing() if poisoned else work, on_fault)

    (tmp_path / "a").mkdir()
    async with (
        FakeQemu(tmp_path / "a" / "q") as one,
        FakeQemu(tmp_path / "q2") as two,
        fleet_of(vm(two, "two")) as fleet,
    ):
        async with connected(tmp_path / "two.sock") as bystander:
            monkeypatch.setattr(Tasks, "start", start)
            await asyncio.gather(*(_provoked(fleet, one, two, tmp_path, name), _until(raised)))
            assert await bystander.ask("query-status") == RUNNING
            two.devices["gpu0"] = "vfio-pci"
            assert "error" in await bystander.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
        assert two.connections == 1


async def _until(raised: asyncio.Event) -> None:
    async with asyncio.timeout(20):
        await raised.wait()


async def _provoked(fleet: Supervisor, one: FakeQemu, two: FakeQemu, folder: Path, name: str) -> None:
    """Do what starts every task of a VM; where it can heal, a client is served in the end."""
    taken = name == "takeover"
    config = vm(one, "one")
    if taken:
        aside, place = UnixAddress(f"{one.path}.guard/qemu"), UnixAddress(str(one.path))
        config = replace(config, qemu=aside, listen=place, takeover=str(one.path))
    where = one.path if taken else one.path.with_name("one.sock")
    fleet.apply([vm(two, "two"), config])
    if name == "vm":
        return
    if name == "conversation":
        await _conversed(fleet, folder)
        return
    for _ in range(200):
        try:
            async with asyncio.timeout(0.5), connected(where) as client:
                reply = await client.ask("migrate", {"uri": "exec:cat"})
                await client.ask("query-status")
                if "return" in reply and name != "leave":
                    break
        except (OSError, TimeoutError, AssertionError, TypeError):
            pass
        if name == "leave":
            fleet.apply([vm(two, "two")])
            return
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("it has not healed")
    fleet.apply([vm(two, "two")])
    await eventually(lambda: set(fleet.guards) == {"two"})


async def _conversed(fleet: Supervisor, folder: Path) -> None:
    path = str(folder / "console")
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(Console(fleet, path).run())
        await eventually(Path(path).exists)
        with suppress(ValueError):  # no answer, or an error as answer
            await ask(path, status=True)
        assert len((await ask(path, status=True))["return"]) == 2
        task.cancel()
