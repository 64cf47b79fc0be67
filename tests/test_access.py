"""Who may come in, and what for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from qmpguard.access import OPEN, OVERFLOW, Access, Role
from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.record import Decision, Peer
from tests.daemon.test_supervisor import fleet_of, vm
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, connected

if TYPE_CHECKING:
    from pathlib import Path

USERS, GROUPS = Access(users=frozenset({7})), Access(groups=frozenset({8}))
BOTH = Access(frozenset({7}), frozenset({8}))


@pytest.mark.parametrize(
    ("access", "peer", "says"),
    [
        (OPEN, Peer(1), None),
        (OPEN, Peer(1, 2, OVERFLOW, OVERFLOW), None),
        (USERS, Peer(1, 2, 7, 9), None),
        (USERS, Peer(1, 2, 0, 0), "user 0 is on no list"),
        (USERS, Peer(1), "it has no user: not a unix socket"),
        (USERS, Peer(1, 2, OVERFLOW, 8), "its user has no id here (65534: another user namespace)"),
        (GROUPS, Peer(1, 2, 3, 8), None),
        (GROUPS, Peer(1, 2, 3, 4, (5, 8)), None),
        (GROUPS, Peer(1, 2, 3, 4, (5,)), "user 3 is on no list"),
        (Access(groups=frozenset({OVERFLOW})), Peer(1, 2, 3, OVERFLOW, (OVERFLOW,)), "user 3 is on no list"),
        (BOTH, Peer(1, 2, 7, 9), None),
        (BOTH, Peer(1, 2, 9, 8), None),
        (BOTH, Peer(1, 2, 9, 9), "user 9 is on no list"),
    ],
)
def test_who_is_on_a_list_may_come_in(access: Access, peer: Peer, says: str | None) -> None:
    assert access.refusal(peer) == says


async def test_a_peers_groups_are_those_of_its_process(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, fleet_of(vm(qemu)) as fleet, connected(tmp_path / "one.sock"):
        (client,) = fleet.guards["one"].vm.clients
        assert (client.peer.uid, client.peer.gid) == (os.getuid(), os.getgid())
        assert set(client.peer.groups) == set(os.getgroups())


async def test_an_observer_may_ask_and_nothing_else(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        fleet_of(vm(qemu, role=Role.OBSERVER)) as fleet,
        connected(tmp_path / "one.sock", oob=True) as qmp,
    ):
        reply = await qmp.ask("stop", id=1)
        assert_refused(reply, "observer")
        assert (await qmp.ask("query-status", id=2))["id"] == 2
        qmp.send({"exec-oob": "migrate-pause", "id": 3})
        assert_refused(await qmp.receive(), "observer")
        line = await qmp.ask("human-monitor-command", {"command-line": "stop"})
        assert line["return"].startswith("Error: An observer may not use human-monitor-command")
        assert qemu.commands() == ["query-status"]
        told = [e.what for e in fleet.guards["one"].vm.journal.since(0) if isinstance(e.what, Decision)]
        assert told[0].text == reply["error"]["desc"]
        assert len(told) == 3
        fleet.apply([vm(qemu)])
        assert await qmp.ask("stop") == {"return": {}}


@pytest.mark.qemu
async def test_an_observer_of_a_real_qemu(tmp_path: Path) -> None:
    async with Qemu(system_qemu(), tmp_path) as qemu:
        fake = FakeQemu(qemu.monitors[0])
        async with fleet_of(vm(fake, role=Role.OBSERVER)), connected(tmp_path / "one.sock") as qmp:
            assert "return" in await qmp.ask("query-qmp-schema")
            assert "return" in await qmp.ask("qom-list", {"path": "/"})
            assert (await qmp.ask("human-monitor-command", {"command-line": "info version"}))["return"].strip()
            for command in ("system_reset", "quit", "object-add", "migrate", "getfd", "device_add"):
                assert_refused(await qmp.ask(command), "observer")
            assert "return" in await qmp.ask("query-status")
