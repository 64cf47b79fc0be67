"""A fleet that is made to fit one config after the other, while clients are connected."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from qmpguard.access import Access, Role
from qmpguard.address import TcpAddress, UnixAddress
from qmpguard.config import VmConfig
from qmpguard.daemon.supervisor import Changes, Supervisor
from qmpguard.daemon.systemd import PassedSockets
from qmpguard.errors import UnavailableError
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.proxy.judging.schemas import Schemas
from qmpguard.record import LinkChange, Run
from qmpguard.tasks import Tasks
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import TIMEOUT, assert_refused, capabilities, connected, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from qmpguard.record import Entry

POSTCOPY = capabilities(postcopy_ram=True)
WARN = Policy(mode=Mode.WARN)


@asynccontextmanager
async def fleet_of(*vms: VmConfig) -> AsyncGenerator[Supervisor]:
    async with Tasks() as tasks:
        fleet = Supervisor(tasks, Schemas(), PassedSockets(), Run())
        fleet.apply(vms)
        try:
            yield fleet
        finally:
            fleet.cancel()


def vm(qemu: FakeQemu, name: str = "one", **others: object) -> VmConfig:
    listen = UnixAddress(str(qemu.path.with_name(f"{name}.sock")))
    return replace(VmConfig(name, UnixAddress(str(qemu.path)), listen, watch=0.0), **others)  # type: ignore[arg-type]


async def test_a_policy_is_swapped_and_the_client_stays(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, connected(tmp_path / "one.sock") as qmp:
        qemu.devices["gpu0"] = "vfio-pci"
        assert_refused(await qmp.ask("migrate-set-capabilities", POSTCOPY), "vfio-postcopy")
        assert fleet.apply([vm(qemu, policy=WARN)]) == Changes(changed=("one",))
        assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}
        qemu.capabilities["postcopy-ram"] = False
        assert fleet.apply([vm(qemu)]) == Changes(changed=("one",))
        assert_refused(await qmp.ask("migrate-set-capabilities", POSTCOPY), "vfio-postcopy")
        assert fleet.apply([vm(qemu)]) == Changes()
        assert str(fleet.apply([vm(qemu)])) == "no change"
        assert qemu.connections == 1


async def test_a_verdict_that_is_under_way_is_finished_by_the_policy_that_it_began_with(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, connected(tmp_path / "one.sock") as qmp:
        qemu.devices["gpu0"] = "vfio-pci"
        qemu.hold.add("query-migrate-capabilities")
        qmp.send({"execute": "migrate-set-capabilities", "arguments": POSTCOPY})
        await qemu.until("query-migrate-capabilities")
        fleet.apply([vm(qemu, policy=WARN)])
        qemu.let_go()
        assert_refused(await qmp.receive(), "vfio-postcopy")
        assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}


async def test_vms_come_and_go_and_the_others_do_not_notice(tmp_path: Path) -> None:
    heard: list[Entry] = []
    async with (
        FakeQemu(tmp_path / "q1") as one,
        FakeQemu(tmp_path / "q2") as two,
        fleet_of(vm(one)) as fleet,
        connected(tmp_path / "one.sock") as stays,
    ):
        fleet.listen(heard.append)
        assert fleet.apply([vm(one), vm(two, "two")]) == Changes(added=("two",))
        async with connected(tmp_path / "two.sock") as leaves:
            assert fleet.apply([vm(one)]) == Changes(removed=("two",))
            assert await leaves.closed()
        assert not (tmp_path / "two.sock").exists()
        assert await stays.ask("query-name") == {"return": {}}
        assert fleet.apply([vm(two, "two"), vm(one)]) == Changes(added=("two",))
        async with connected(tmp_path / "two.sock") as qmp:
            assert await qmp.ask("query-name") == {"return": {}}
        assert list(fleet.guards) == ["two", "one"]
    ups = [entry.vm for entry in heard if isinstance(entry.what, LinkChange) and entry.what.up]
    assert ups.count("two") == 2


async def test_a_reply_that_is_under_way_is_waited_for_when_a_vm_goes(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        FakeQemu(tmp_path / "r") as other,
        fleet_of(vm(qemu)) as fleet,
        connected(tmp_path / "one.sock") as qmp,
    ):
        qemu.hold.add("query-name")
        qmp.send({"execute": "query-name", "id": 1})
        await qemu.until("query-name")
        fleet.apply([vm(other, "other")])
        qemu.let_go()
        assert await qmp.receive() == {"return": {}, "id": 1}
        assert await qmp.closed()


async def test_two_vms_change_places_and_their_clients_stay(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q1") as one, FakeQemu(tmp_path / "q2") as two:
        first, second = vm(one, "one"), vm(two, "two")
        async with (
            fleet_of(first, second) as fleet,
            connected(tmp_path / "one.sock") as old,
        ):
            crossed = (replace(first, listen=second.listen), replace(second, listen=first.listen))
            assert fleet.apply(crossed) == Changes(changed=("one", "two"))
            async with connected(tmp_path / "two.sock") as qmp:
                await qmp.ask("query-name")
                await old.ask("query-name")
                assert one.commands() == ["query-name", "query-name"]
                assert two.commands() == []


async def test_a_vm_whose_qemu_is_elsewhere_begins_anew_behind_the_same_socket(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q1") as one, FakeQemu(tmp_path / "q2") as two, fleet_of(vm(one)) as fleet:
        async with connected(tmp_path / "one.sock") as qmp:
            inode = (tmp_path / "one.sock").stat().st_ino
            assert fleet.apply([vm(two)]) == Changes(restarted=("one",))
            assert await qmp.closed()
        async with connected(tmp_path / "one.sock") as qmp:
            await qmp.ask("query-name")
        assert two.commands() == ["query-name"]
        assert (tmp_path / "one.sock").stat().st_ino == inode


async def test_a_vm_is_renamed(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet:
        await eventually(lambda: qemu.connections == 1)
        assert fleet.apply([replace(vm(qemu), name="new")]) == Changes(added=("new",), removed=("one",))
        async with connected(tmp_path / "one.sock") as qmp:
            assert await qmp.ask("query-name") == {"return": {}}


@pytest.mark.parametrize("fault", ["no socket", "taken", "a second one"])
async def test_what_cannot_be_had_changes_nothing(tmp_path: Path, fault: str) -> None:
    (tmp_path / "file").write_text("mine")
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        FakeQemu(tmp_path / "r") as other,
        fleet_of(vm(qemu)) as fleet,
        connected(tmp_path / "one.sock") as qmp,
    ):
        bad = {
            "no socket": vm(other, "bad", listen=UnixAddress(str(tmp_path / "file"))),
            "taken": vm(other, "bad", listen=UnixAddress(str(other.path))),
            "a second one": vm(other, "bad", listen=TcpAddress("203.0.113.1", 1)),
        }[fault]
        wanted = [vm(qemu, policy=WARN, socket_mode=0o666), vm(other, "fresh"), bad]
        with pytest.raises(UnavailableError, match="cannot listen at"):
            fleet.apply(wanted)
        assert list(fleet.guards) == ["one"]
        assert fleet.guards["one"].vm.gate.policy == Policy()
        assert (tmp_path / "one.sock").stat().st_mode & 0o777 == 0o600
        assert not (tmp_path / "fresh.sock").exists()
        assert await qmp.ask("query-name") == {"return": {}}
    assert (tmp_path / "file").read_text() == "mine"


async def test_a_group_that_cannot_be_given_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", forbidden)
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        FakeQemu(tmp_path / "r") as other,
        fleet_of(vm(qemu), vm(other, "two")) as fleet,
        connected(tmp_path / "one.sock") as qmp,
    ):
        for _ in range(2):  # what failed is not taken for what the file has
            with pytest.raises(UnavailableError, match=r"two\.sock: Operation not permitted"):
                fleet.apply([vm(qemu, policy=WARN, socket_mode=0o666), vm(other, "two", socket_group=1)])
        assert [(tmp_path / f"{name}.sock").stat().st_mode & 0o777 for name in ("one", "two")] == [0o600, 0o600]
        assert fleet.guards["one"].vm.gate.policy == Policy()
        assert await qmp.ask("query-name") == {"return": {}}


async def test_permissions_and_limits_change_without_a_new_socket(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, connected(tmp_path / "one.sock") as qmp:
        fleet.apply([vm(qemu, socket_mode=0o660, socket_group=os.getgid(), max_clients=1)])
        assert (tmp_path / "one.sock").stat().st_mode & 0o777 == 0o660
        async with connected(tmp_path / "one.sock", negotiate=False) as second:
            assert await second.closed()
        fleet.apply([vm(qemu, access=Access(users=frozenset({os.getuid() + 1})), role=Role.OPERATOR)])
        async with connected(tmp_path / "one.sock", negotiate=False) as third:
            assert await third.closed()
        assert fleet.guards["one"].vm.counts.drops == {"too_many_clients": 1, "not_allowed": 1}
        assert await qmp.ask("query-name") == {"return": {}}


async def test_the_end_waits_for_replies_of_every_vm(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, connected(tmp_path / "one.sock") as qmp:
        qemu.hold.add("query-name")
        qmp.send({"execute": "query-name"})
        await qemu.until("query-name")
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
            tasks.create_task(fleet.drain())
            await eventually(lambda: not (tmp_path / "one.sock").exists())
            qemu.let_go()
        assert await qmp.receive() == {"return": {}}
