"""What was said to one QEMU, or judged by what it said, never reaches the next one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import UnixAddress
from qmpguard.errors import UnavailableError
from qmpguard.policy.facts import Fact
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from qmpguard.policy.survey import observe
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.qemu.control import Control
from qmpguard.proxy.vm import Vm
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.daemon.guard import GuardedVm
    from qmpguard.policy.bursts import Answer, Query
    from qmpguard.proxy.judging.gate import Gate

POSTCOPY = capabilities(postcopy_ram=True)
MIGRATE = {"execute": "migrate", "arguments": {"uri": "exec:cat"}}


async def next_link(qemu: FakeQemu, guard: GuardedVm) -> None:
    await eventually(lambda: qemu.connections == 2 and guard.vm.connected.is_set())


@asynccontextmanager
async def judged_without_room(qemu: FakeQemu, guard: GuardedVm, socket: Path) -> AsyncGenerator[Client]:
    """A client whose migration was judged, while another's requests have taken all the room that clients have."""
    async with connected(socket) as qmp, connected(socket, oob=True) as crowd:
        qemu.hold |= {"query-name", "query-migrate-capabilities"}
        qmp.send(MIGRATE)
        await qemu.until("query-migrate-capabilities")
        crowd.send(*({"execute": "query-name", "id": i} for i in range(8)))
        await qemu.until("query-name", 5)  # the survey has the sixth place
        qemu.let_go("query-migrate-capabilities")
        await eventually(lambda: guard.vm.counts.allowed == 1)
        yield qmp


@pytest.mark.parametrize("last", ["query-migrate-capabilities", "qom-list"])
async def test_a_survey_that_one_qemu_began_is_not_continued_with_another(tmp_path: Path, last: str) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        answer = qemu.result

        def and_die(request: dict[str, Any]) -> Any:
            qemu.answers.clear()
            qemu.send({"return": answer(last, request.get("arguments", {})), "id": request["id"]})
            qemu.die()
            return {}

        qemu.answers[last] = and_die
        qmp.send({"execute": "migrate-set-capabilities", "arguments": POSTCOPY})
        assert await qmp.closed()
        before = len(qemu.commands())
        await next_link(qemu, guard)
        async with connected(tmp_path / "guard.sock") as other:
            assert await other.ask("query-name") == {"return": {}}
        assert qemu.commands()[before:] == ["query-name"]
        await eventually(lambda: not guard.vm.gate.turn.locked())


async def test_what_was_judged_and_waits_for_room_does_not_reach_the_next_qemu(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        judged_without_room(qemu, guard, tmp_path / "guard.sock") as qmp,
    ):
        qemu.die()
        assert await qmp.closed()
        await next_link(qemu, guard)
        qemu.hold.clear()
        async with connected(tmp_path / "guard.sock") as other:
            assert await other.ask("query-name") == {"return": {}}
        assert "migrate" not in qemu.commands()
        await eventually(lambda: not guard.vm.gate.turn.locked())


async def test_what_was_judged_and_waits_for_room_is_dropped_when_its_client_leaves(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        judged_without_room(qemu, guard, tmp_path / "guard.sock") as qmp,
    ):
        qmp.writer.transport.abort()
        while len(guard.vm.clients) > 1:
            qemu.emit("RESUME")  # a hang-up shows when the guard writes
            await asyncio.sleep(0)
        async with connected(tmp_path / "guard.sock") as other:
            qemu.let_go()
            assert await other.ask("device_add", {"driver": "e1000e", "id": "x"}) == {"return": {}}
        assert "migrate" not in qemu.commands()


async def test_a_schema_is_never_learnt_under_the_version_of_another_qemu(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=Policy(profile=Profile.STRICT)) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.hold.add("query-qmp-schema")
        qmp.send({"execute": "x-unheard-of"})
        await eventually(lambda: any(r.get("execute") == "query-qmp-schema" for r in qemu.seen))
        qemu.version, qemu.package = "99.9.0", ""
        qemu.hold.clear()
        qemu.die()
        await next_link(qemu, guard)
        async with connected(tmp_path / "guard.sock") as other:
            assert await other.ask("query-status") == {"return": {"status": "running", "running": True}}
            await eventually(lambda: guard.vm.gate.commands is not None)
        assert [version for version, _ in guard.vm.gate.schema._schemas._known] == ["99.9.0"]


async def test_a_link_without_the_guards_own_session_is_made_anew(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            own = guard.vm.gate.surveyor.control
            assert isinstance(own, Control)
            own.close(CloseReason.FAILED)
            assert await qmp.closed()
        await next_link(qemu, guard)
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}


class Line:
    """A control session whose link is replaced by another while QEMU answers."""

    def __init__(self, gate: Gate, successor: Line | None) -> None:
        self.asked: list[Query] = []
        self._gate = gate
        self._successor = successor

    async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        self.asked += queries
        self._gate.surveyor.control = self._successor
        return tuple([] for _ in queries)


@pytest.mark.parametrize("replaced", [True, False])
async def test_questions_are_not_continued_on_the_next_link(tmp_path: Path, *, replaced: bool) -> None:
    gate = Vm("test", UnixAddress(str(tmp_path / "q")), Policy()).gate
    second = Line(gate, None)
    first = gate.surveyor.control = Line(gate, second if replaced else None)
    with pytest.raises(UnavailableError, match="QEMU went away"):
        await gate.surveyor.ask(observe(gate.policy, wanted=(Fact.CAPABILITIES, Fact.DEVICES, Fact.DETAILS)))
    assert first.asked
    assert not second.asked
