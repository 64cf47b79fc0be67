"""Random sequences of reloads while clients talk and QEMUs come and go.

The invariants, whenever the reloads have settled: every VM of the last good configuration is served at its address by
its own QEMU; no other QEMU is held; what clients of VMs that are gone had is closed; and at the end there are as many
descriptors and tasks as at the beginning. A configuration that cannot be used has changed nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from qmpguard.address import FdAddress, Inbound, UnixAddress
from qmpguard.config import Absent, VmConfig
from qmpguard.daemon import guard as guards
from qmpguard.daemon.supervisor import Supervisor
from qmpguard.daemon.systemd import PassedSockets
from qmpguard.errors import QmpguardError
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from qmpguard.proxy.judging.schemas import Schemas
from qmpguard.record import Run
from qmpguard.tasks import Tasks
from tests.support.descriptors import open_sockets
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, connected, eventually

#: QEMUs that listen, QEMUs that dial in, addresses of clients, names, and steps of one sequence
QEMUS, DIALLING, ADDRESSES, NAMES, STEPS = 4, 2, 5, 6, 12


class Counted(FakeQemu):
    """A QEMU whose connections are counted."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(path)
        self._readers: set[asyncio.StreamReader] = set()
        self.answers["query-name"] = lambda _: {"name": str(number)}

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._readers.add(reader)
        try:
            await super().converse(reader, writer)
        finally:
            self._readers.discard(reader)

    @property
    def open(self) -> int:
        """The connections that the guard has not closed."""
        return sum(not reader.at_eof() for reader in self._readers)


class Dialling(Counted):
    """A QEMU that dials, again and again."""

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._dial())  # ended by `stop`

    async def _dial(self) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self.path)
                await self.converse(reader, writer)
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self.die()
        await asyncio.sleep(0)


class World:
    """Some QEMUs, a fleet, and what was last asked of it."""

    def __init__(self, folder: Path, fleet: Supervisor, chance: random.Random) -> None:
        self.folder = folder
        self.fleet = fleet
        self.passes = chance
        self.qemus: dict[str, Counted] = {}
        for number in range(QEMUS):
            path = folder / f"q{number}"
            self.qemus[str(UnixAddress(str(path)))] = Counted(path, number)
        for number in range(QEMUS, QEMUS + DIALLING):
            path = folder / f"q{number}"
            self.qemus[str(Inbound(UnixAddress(str(path))))] = Dialling(path, number)
        self.vms: tuple[VmConfig, ...] = ()
        self.clients: list[tuple[VmConfig, Client]] = []

    def _address(self, number: int) -> UnixAddress:
        return UnixAddress(str(self.folder / f"c{number}"))

    def _qemu(self, number: int) -> UnixAddress | Inbound:
        path = UnixAddress(str(self.folder / f"q{number}"))
        return Inbound(path) if number >= QEMUS else path

    def another(self) -> tuple[VmConfig, ...]:
        """The next configuration: any names, addresses and QEMUs, each for one VM."""
        count = self.passes.randrange(min(ADDRESSES, QEMUS + DIALLING))
        names = self.passes.sample(range(NAMES), count)
        addresses = self.passes.sample(range(ADDRESSES), count)
        qemus = self.passes.sample(range(QEMUS + DIALLING), count)
        return tuple(self._vm(f"vm{n}", a, q) for n, a, q in zip(names, addresses, qemus, strict=True))

    def _vm(self, name: str, address: int, qemu: int) -> VmConfig:
        mode = self.passes.choice((Mode.WARN, Mode.ENFORCE))
        absent = self.passes.choice(tuple(Absent))
        return VmConfig(name, self._qemu(qemu), self._address(address), Policy(mode=mode), watch=0.0, absent=absent)

    def changed(self) -> tuple[VmConfig, ...]:
        """The last configuration, but for one thing about one VM."""
        if not self.vms:
            return self.another()
        index = self.passes.randrange(len(self.vms))
        vm, rest = self.vms[index], [*self.vms[:index], *self.vms[index + 1 :]]
        match self.passes.randrange(5):
            case 0:
                return tuple(rest)
            case 1:
                free = {f"vm{n}" for n in range(NAMES)} - {other.name for other in self.vms}
                vm = replace(vm, name=self.passes.choice(sorted(free)))
            case 2:
                taken = {str(other.listen) for other in rest}
                listens = [a for n in range(ADDRESSES) if str(a := self._address(n)) not in taken]
                vm = replace(vm, listen=self.passes.choice(listens))
            case 3:
                held = {str(other.qemu) for other in rest}
                places = [q for n in range(QEMUS + DIALLING) if str(q := self._qemu(n)) not in held]
                vm = replace(vm, qemu=self.passes.choice(places))
            case _:
                vm = replace(vm, policy=Policy(mode=self.passes.choice((Mode.WARN, Mode.ENFORCE))))
        return (*rest, vm)

    def bad(self) -> tuple[VmConfig, ...]:
        """A configuration that cannot be used."""
        nowhere = UnixAddress(str(self.folder / "no" / "where"))
        qemu, listen = self._qemu(0), UnixAddress(str(self.folder / "free"))
        bad = self.passes.choice(
            (
                VmConfig("bad", UnixAddress(str(self.folder / "nobody")), nowhere),
                VmConfig("bad", Inbound(nowhere), listen),
                VmConfig("bad", FdAddress(2**31 - 1), listen),
                VmConfig("bad", UnixAddress(str(self.folder / "nobody")), FdAddress(2**31 - 1)),
                VmConfig("bad", Inbound(qemu.at if isinstance(qemu, Inbound) else qemu), listen),
            )
        )
        return (*(vm for vm in self.changed() if vm.qemu != qemu), bad)

    def fit(self, vms: tuple[VmConfig, ...]) -> None:
        self.fleet.apply(vms)
        self.vms = vms

    async def step(self) -> None:
        match self.passes.randrange(8):
            case 0:
                for _ in range(self.passes.randint(2, 4)):  # a burst of signals
                    self.fit(self.another())
                    await asyncio.sleep(self.passes.choice((0, 0, 0.02)))
            case 1 | 2:
                self.fit(self.changed())
                self.fit(self.changed())
            case 3:
                before = dict(self.fleet.guards)
                with pytest.raises(QmpguardError):
                    self.fleet.apply(self.bad())
                assert self.fleet.guards == before
            case 4:
                qemu = self.passes.choice(list(self.qemus.values()))
                await qemu.stop()
                await asyncio.sleep(self.passes.choice((0, 0.02)))
                await qemu.start()
            case 5 | 6:
                await self.connect()
            case _:
                await asyncio.sleep(0.02)

    async def connect(self) -> None:
        """Connect a client, which may leave a request behind that is not answered."""
        if not self.vms:
            return
        vm = self.passes.choice(self.vms)
        assert isinstance(vm.listen, UnixAddress)
        with suppress(OSError):
            client = Client(*await asyncio.open_unix_connection(vm.listen.path))
            self.clients.append((vm, client))
            client.send({"execute": "qmp_capabilities"}, {"execute": self.passes.choice(("query-name", "held"))})

    async def settled(self) -> None:
        """Wait until the invariants hold."""
        for vm in self.vms:
            assert isinstance(vm.listen, UnixAddress)
            async with served(Path(vm.listen.path)) as qmp:
                assert await qmp.ask("query-name") == {"return": {"name": self._number(vm)}}
        wanted = {str(vm.qemu) for vm in self.vms}
        for address, qemu in self.qemus.items():
            await eventually(lambda address=address, qemu=qemu: qemu.open <= (address in wanted))  # type: ignore[misc]
        await eventually(lambda: not self.fleet._stopping)
        assert {guard.config.name for guard in self.fleet._running} == {vm.name for vm in self.vms}
        here = {str(vm.qemu) for vm in self.vms}
        for vm, client in self.clients:
            if str(vm.qemu) not in here:
                assert await client.closed()

    def _number(self, vm: VmConfig) -> str:
        where = vm.qemu.at if isinstance(vm.qemu, Inbound) else vm.qemu
        assert isinstance(where, UnixAddress)
        return Path(where.path).name.removeprefix("q")


class served:  # noqa: N801 -- used as a function
    """A client that tries again until it is served: a link may be lost in the moment in which it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Client:
        async with asyncio.timeout(20):
            while True:
                with suppress(AssertionError, TypeError, ConnectionError):
                    return await self._stack.enter_async_context(connected(self._path))
                await asyncio.sleep(0.01)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


@pytest.mark.parametrize("seed", [*range(12), 21, 48])
async def test_any_sequence_of_reloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(guards, "DRAIN_TIMEOUT", 0.2)
    monkeypatch.setattr("qmpguard.proxy.serving.REST", 0.05)
    chance = random.Random(seed)  # noqa: S311 -- a test that can be repeated
    before, tasks_before = open_sockets(), len(asyncio.all_tasks())
    async with Tasks() as tasks:
        world = World(tmp_path, Supervisor(tasks, Schemas(), PassedSockets(), Run()), chance)
        async with AsyncExitStack() as stack:
            for qemu in world.qemus.values():
                qemu.hold.add("held")
                await stack.enter_async_context(qemu)
            for _ in range(STEPS):
                await world.step()
                if chance.random() < 0.3:
                    await world.settled()
            await world.settled()
            world.fit(())
            await world.settled()
            for _, client in world.clients:
                client.writer.close()
        assert tasks.faults == {}
    await eventually(lambda: open_sockets() <= before and len(asyncio.all_tasks()) <= tasks_before)
    assert {path.name for path in tmp_path.iterdir()} <= {f"q{number}" for number in range(QEMUS)}


def passed_pair(qemu: FakeQemu) -> int:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(qemu.path))
    return sock.detach()


async def test_a_renamed_vm_keeps_its_link_also_one_that_was_passed(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, FakeQemu(tmp_path / "r") as other, Tasks() as tasks:
        number = passed_pair(other)
        one = VmConfig("one", UnixAddress(str(qemu.path)), UnixAddress(str(tmp_path / "c1")), watch=0.0)
        two = VmConfig("two", FdAddress(number), UnixAddress(str(tmp_path / "c2")), watch=0.0)
        fleet = Supervisor(tasks, Schemas(), PassedSockets(), Run())
        fleet.apply([one, two])
        for name in "abc":
            for path in ("c1", "c2"):
                async with connected(tmp_path / path) as qmp:
                    assert await qmp.ask("query-name") == {"return": {}}
            fleet.apply([replace(one, name=f"one-{name}"), replace(two, name=f"two-{name}")])
        for path in ("c1", "c2"):
            async with connected(tmp_path / path) as qmp:
                assert await qmp.ask("query-name") == {"return": {}}
        assert (qemu.connections, other.connections) == (1, 1)
        fleet.apply([])
        await eventually(lambda: other.transport is None or other.transport.is_closing())
        os.close(number)


async def test_the_number_of_a_passed_connection_never_becomes_that_of_another(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, Tasks() as tasks:
        number = passed_pair(qemu)
        vm = VmConfig("one", FdAddress(number), UnixAddress(str(tmp_path / "c")), watch=0.0)
        fleet = Supervisor(tasks, Schemas(), PassedSockets(), Run())
        fleet.apply([vm])
        async with connected(tmp_path / "c") as qmp:
            await qmp.ask("query-name")
        fleet.apply([])
        await eventually(lambda: not fleet._running)
        with socket.socket(socket.AF_UNIX) as sock:
            assert sock.fileno() != number
        fleet.apply([vm])
        await eventually(fleet.ended.is_set)
        assert "a descriptor cannot be opened again" in fleet.vms[0].snapshot().link.reason
        fleet.apply([])
        os.close(number)


async def test_a_client_of_a_vm_that_goes_before_it_has_begun_is_closed(tmp_path: Path) -> None:
    async with Tasks() as tasks:
        fleet = Supervisor(tasks, Schemas(), PassedSockets(), Run())
        fleet.apply([VmConfig("one", UnixAddress(str(tmp_path / "q")), UnixAddress(str(tmp_path / "c")), watch=0.0)])
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(tmp_path / "c"))
            fleet.apply([])
            client = Client(*await asyncio.open_unix_connection(sock=sock))
            assert await client.closed()
            client.writer.close()
        assert not (tmp_path / "c").exists()
