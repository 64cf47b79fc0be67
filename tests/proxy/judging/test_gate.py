"""The gate between a fake QEMU and clients: what is asked, in which order, and what passes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import permutations
from typing import TYPE_CHECKING

import pytest

from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.policy import Policy
from qmpguard.record import Decision
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from pathlib import Path

POSTCOPY = capabilities(postcopy_ram=True)
SURVEY = {
    "query-named-block-nodes",
    "query-migrate-capabilities",
    "qom-list",
    "qom-get",
    "query-status",
    "query-migrate",
}


@pytest.mark.parametrize("pretty", [False, True], ids=["plain", "pretty"])
async def test_a_capability_is_refused_while_a_vfio_device_is_plugged(tmp_path: Path, *, pretty: bool) -> None:
    qemu = FakeQemu(tmp_path / "q")
    qemu.pretty = pretty
    async with qemu, guarding(qemu.path) as guard, connected(tmp_path / "guard.sock") as qmp:
        qemu.devices["gpu0"] = "vfio-pci"
        reply = await qmp.ask("migrate-set-capabilities", POSTCOPY, id=7)
        assert_refused(reply, "vfio-postcopy")
        assert reply["id"] == 7
        assert "migrate-set-capabilities" not in qemu.commands()
        assert guard.vm.counts.refused == 1


async def test_a_capability_passes_without_a_vfio_device(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}
        assert qemu.capabilities["postcopy-ram"]


async def test_a_harmless_capability_list_asks_qemu_nothing(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.devices["gpu0"] = "vfio-pci"
        assert await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=False)) == {"return": {}}
        assert qemu.commands() == ["migrate-set-capabilities"]


async def test_nothing_is_sent_between_the_survey_and_the_command(tmp_path: Path) -> None:
    """Another client's operation and its plain command arrive while the survey is under way."""
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock") as one,
        connected(tmp_path / "guard.sock") as two,
    ):
        qemu.hold.add("query-migrate-capabilities")
        one.send({"execute": "migrate", "arguments": {"uri": "exec:cat"}})
        await qemu.until("query-migrate-capabilities")
        two.send({"execute": "device_add", "arguments": {"driver": "vfio-pci", "id": "gpu0"}})
        await asyncio.sleep(0)
        qemu.hold.add("migrate")
        qemu.let_go("query-migrate-capabilities")
        await qemu.until("migrate")
        commands = qemu.commands()
        last_question = max(i for i, c in enumerate(commands) if c in SURVEY)
        assert commands[last_question + 1 :] == ["migrate"]
        assert "device_add" not in commands
        qemu.let_go()
        assert await one.receive() == {"return": {}}
        assert await two.receive() == {"return": {}}


async def test_of_two_clients_racing_for_the_combination_one_is_refused(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock") as one,
        connected(tmp_path / "guard.sock") as two,
    ):
        one.send({"execute": "device_add", "arguments": {"driver": "vfio-pci", "id": "gpu0"}})
        two.send({"execute": "migrate-set-capabilities", "arguments": POSTCOPY})
        replies = [await one.receive(), await two.receive()]
        assert sum("error" in reply for reply in replies) == 1
        assert not (qemu.devices and qemu.capabilities["postcopy-ram"])


DEEDS = {
    "device_add": {"driver": "vfio-pci", "id": "gpu0"},
    "migrate-set-capabilities": POSTCOPY,
    "migrate": {"uri": "tcp:127.0.0.1:1"},
}


@pytest.mark.parametrize("order", list(permutations(DEEDS)), ids=" ".join)
@pytest.mark.parametrize("last", [None, "completed"])
async def test_three_clients_racing_for_a_forbidden_migration_never_get_it(
    tmp_path: Path, order: tuple[str, ...], last: str | None
) -> None:
    """Every order in which plug, set and migrate can come in at once, on a fresh VM and on one that was migrated."""
    async with AsyncExitStack() as stack:
        qemu = await stack.enter_async_context(FakeQemu(tmp_path / "q"))
        qemu.migration = last

        def migrate(_: object) -> dict[str, object]:
            qemu.migration = "active"
            return {}

        qemu.answers["migrate"] = migrate
        await stack.enter_async_context(guarding(qemu.path))
        clients = [await stack.enter_async_context(connected(tmp_path / "guard.sock")) for _ in order]
        for client, command in zip(clients, order, strict=True):
            client.send({"execute": command, "arguments": DEEDS[command]})
            await asyncio.sleep(0)
        replies = [await client.receive() for client in clients]
        assert [command for command in qemu.commands() if command in DEEDS] == [
            command for command, reply in zip(order, replies, strict=True) if reply == {"return": {}}
        ]
        assert not (qemu.devices and qemu.capabilities["postcopy-ram"] and qemu.migration == "active")


@pytest.mark.parametrize("profile", list(Profile))
async def test_who_steers_a_migration_never_waits_for_the_gate(tmp_path: Path, profile: Profile) -> None:
    """Not even in strict, before the schema is read that says which commands there are."""
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=Policy(profile=profile)),
        connected(tmp_path / "guard.sock") as one,
        connected(tmp_path / "guard.sock", oob=True) as two,
    ):
        qemu.hold |= {"query-migrate-capabilities", "query-qmp-schema"}
        one.send({"execute": "migrate", "arguments": {"uri": "tcp:127.0.0.1:1"}})
        await qemu.until("query-migrate-capabilities")
        for command in ("migrate_cancel", "migrate-pause", "migrate-continue", "migrate-recover"):
            assert await two.ask(command) == {"return": {}}
        for line in ("migrate_cancel", "migrate_pause", "migrate_recover tcp:h:1", "migrate -r tcp:h:1", "info status"):
            assert await two.ask("human-monitor-command", {"command-line": line}) == {"return": {}}
        assert await two.ask("migrate", {"uri": "x", "resume": True}) == {"return": {}}
        assert await two.ask("migrate-set-capabilities", capabilities(postcopy_ram=False)) == {"return": {}}
        two.send({"exec-oob": "migrate-pause", "id": 1})
        assert await two.receive() == {"return": {}, "id": 1}
        qemu.let_go()
        assert await one.receive() == {"return": {}}


async def test_out_of_band_is_no_way_past_the_gate(tmp_path: Path) -> None:
    """QEMU refuses this spelling itself; one that would not must not be a hole."""
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock", oob=True) as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        qmp.send({"exec-oob": "migrate-set-capabilities", "arguments": POSTCOPY, "id": 1})
        assert_refused(await qmp.receive(), "vfio-postcopy")
        assert "migrate-set-capabilities" not in qemu.commands()


async def test_commands_that_are_not_judged_do_not_wait_for_the_gate(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path),
        connected(tmp_path / "guard.sock") as one,
        connected(tmp_path / "guard.sock") as two,
    ):
        qemu.hold.add("query-migrate-capabilities")
        one.send({"execute": "migrate", "arguments": {"uri": "exec:cat"}})
        await qemu.until("query-migrate-capabilities")
        assert (await two.ask("query-status"))["return"]["status"] == "running"
        assert await two.ask("human-monitor-command", {"command-line": "stop"}) == {"return": {}}
        qemu.let_go()
        assert await one.receive() == {"return": {}}


async def test_the_same_clients_later_commands_keep_their_place(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qmp.send(
            {"execute": "query-status", "id": 1},
            {"execute": "migrate-set-capabilities", "arguments": POSTCOPY, "id": 2},
            {"execute": "query-name", "id": 3},
        )
        assert [(await qmp.receive())["id"] for _ in range(3)] == [1, 2, 3]
        ours = [c for c in qemu.commands() if c not in SURVEY or c == "query-status"]
        assert ours == ["query-status", "migrate-set-capabilities", "query-name"]


async def test_a_survey_without_an_answer_ends_in_a_refusal(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, survey_timeout=0.1),
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.hold |= {"query-migrate-capabilities", "qom-list"}
        reply = await qmp.ask("migrate", {"uri": "exec:cat"})
        assert_refused(reply, "unverified")
        assert "0.1 s" in reply["error"]["desc"]
        assert (await qmp.ask("query-status"))["return"]["status"] == "running"


async def test_a_turn_that_does_not_come_ends_in_a_refusal(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, survey_timeout=0.1),
        connected(tmp_path / "guard.sock") as one,
        connected(tmp_path / "guard.sock") as two,
    ):
        qemu.hold.add("device_add")
        one.send({"execute": "device_add", "arguments": {"driver": "vfio-pci", "id": "gpu0"}})
        await qemu.until("device_add")
        reply = await two.ask("migrate-set-capabilities", POSTCOPY)
        assert_refused(reply, "unverified")
        assert "another operation keeps QEMU busy" in reply["error"]["desc"]
        qemu.let_go()
        assert await one.receive() == {"return": {}}
        assert (await two.ask("query-status"))["return"]["status"] == "running"
        assert "migrate-set-capabilities" not in qemu.commands()


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("query-migrate-capabilities", {"class": "CommandNotFound", "desc": "gone"}),
        ("query-migrate-capabilities", 5),
        ("query-migrate-capabilities", [{"capability": 1}]),
        ("qom-list", [{"name": 3}]),
        ("qom-list", {}),
    ],
)
async def test_an_answer_that_cannot_be_read_ends_in_a_refusal(tmp_path: Path, command: str, answer: object) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.answers[command] = lambda _: answer
        assert_refused(await qmp.ask("migrate-set-capabilities", POSTCOPY), "unverified")
        assert "migrate-set-capabilities" not in qemu.commands()


async def test_arguments_that_cannot_be_read_are_refused_and_ask_qemu_nothing(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        reply = await qmp.ask("migrate", {"uri": "exec:cat", "config": {"postcopy-ram": True}})
        assert_refused(reply, "unverified")
        assert "'config'" in reply["error"]["desc"]
        assert qemu.commands() == []


async def test_in_mode_warn_everything_passes_and_is_counted(tmp_path: Path) -> None:
    policy = Policy(mode=Mode.WARN)
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=policy) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        assert await qmp.ask("migrate-set-capabilities", POSTCOPY) == {"return": {}}
        assert await qmp.ask("migrate", {"uri": "exec:cat", "unheard-of": 1}) == {"return": {}}
        assert (guard.vm.counts.refused, guard.vm.counts.warned) == (0, 2)


async def test_in_mode_warn_a_request_whose_turn_does_not_come_in_time_passes_later(tmp_path: Path) -> None:
    """It was neither refused nor sent, and its client waited for ever: `python -m tests.model` has found that."""
    policy = Policy(mode=Mode.WARN)
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=policy, survey_timeout=0.3) as guard,
        connected(tmp_path / "guard.sock") as one,
        connected(tmp_path / "guard.sock") as two,
    ):
        qemu.hold.add("device_add")
        one.send({"execute": "device_add", "arguments": {"driver": "vfio-pci", "id": "gpu0"}})
        await qemu.until("device_add")
        two.send({"execute": "migrate-set-capabilities", "arguments": POSTCOPY, "id": 2})
        two.send({"execute": "query-name", "id": 3})
        turn = guard.vm.gate.turn
        await eventually(lambda: bool(turn._waiters))
        assert turn._waiters is not None
        (waits,) = turn._waiters
        await eventually(waits.cancelled)
        assert "migrate-set-capabilities" not in qemu.commands()
        qemu.let_go()
        assert await one.receive() == {"return": {}}
        assert [await two.receive() for _ in range(2)] == [{"return": {}, "id": 2}, {"return": {}, "id": 3}]
        assert guard.vm.counts.refused == 0
        assert "another operation keeps QEMU busy" in str(list(guard.vm.journal.since(0)))


async def test_the_record_says_what_qemu_itself_would_do(tmp_path: Path) -> None:
    policy = Policy(mode=Mode.WARN)
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=policy) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        qemu.devices["gpu0"] = "vfio-pci"
        qemu.capabilities["postcopy-ram"] = True
        own = {"class": "GenericError", "desc": "gpu0: VFIO migration is not supported with postcopy migration"}
        qemu.answers["migrate"] = lambda _: own
        for _ in range(2):
            assert (await qmp.ask("migrate", {"uri": "tcp:h:1"}))["error"] == own
        told = [entry.what.qemu_check for entry in guard.vm.journal.since(0) if isinstance(entry.what, Decision)]
        assert told == ["yes", "yes"]  # at first since upstream does so, then since this QEMU has shown it


async def test_a_client_that_leaves_during_the_survey_has_nothing_executed(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        qemu.hold.add("query-migrate-capabilities")
        async with connected(tmp_path / "guard.sock") as qmp:
            qmp.send({"execute": "migrate", "arguments": {"uri": "exec:cat"}})
            await qemu.until("query-migrate-capabilities")
            # a hang-up shows when the guard writes: an event makes it write
            qmp.writer.transport.abort()
        while guard.vm.clients:
            qemu.emit("RESUME")
            await asyncio.sleep(0.01)
        qemu.let_go()
        async with connected(tmp_path / "guard.sock") as other:
            assert (await other.ask("query-name")) == {"return": {}}
            assert await other.ask("migrate", {"uri": "exec:cat"}) == {"return": {}}
        assert qemu.commands().count("migrate") == 1


async def test_where_qemu_would_refuse_the_request_as_it_refuses_the_question_its_words_are_used(
    tmp_path: Path,
) -> None:
    early = "The command {} is permitted only after machine initialization has completed"
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.answers["qom-list"] = lambda _: {"class": "GenericError", "desc": early.format("qom-list")}
        reply = await qmp.ask("migrate-set-capabilities", POSTCOPY)
        assert reply["error"] == {"class": "GenericError", "desc": early.format("migrate-set-capabilities")}
        qemu.answers["qom-list"] = lambda _: {"class": "GenericError", "desc": "something else"}
        assert_refused(await qmp.ask("migrate-set-capabilities", POSTCOPY), "unverified")


async def test_a_snapshot_to_disk_is_judged_and_is_no_migration(tmp_path: Path) -> None:
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path) as guard,
        connected(tmp_path / "guard.sock") as qmp,
    ):
        job = {"job-id": "j", "tag": "t", "vmstate": "v", "devices": ["v"]}
        assert await qmp.ask("snapshot-save", job) == {"return": {}}
        assert not guard.vm.gate.last_seen.history.steps
        qemu.capabilities["multifd"] = True
        assert_refused(await qmp.ask("snapshot-save", job), "snapshot-multifd")
        assert await qmp.ask("migrate", {"uri": "unix:/x"}) == {"return": {}}
        assert [step.status for step in guard.vm.gate.last_seen.history.steps] == ["setup"]


async def test_a_capability_of_this_qemus_own_schema_is_taken_as_a_parameter(tmp_path: Path) -> None:
    qemu = FakeQemu(tmp_path / "q")
    qemu.schema = [
        {"name": "migrate-set-capabilities", "meta-type": "command", "arg-type": "1"},
        {"name": "1", "meta-type": "object", "members": [{"name": "capabilities", "type": "[2]"}]},
        {"name": "[2]", "meta-type": "array", "element-type": "2"},
        {"name": "2", "meta-type": "object", "members": [{"name": "capability", "type": "3"}]},
        {"name": "3", "meta-type": "enum", "values": ["of-tomorrow"]},
    ]
    async with qemu, guarding(qemu.path) as guard, connected(tmp_path / "guard.sock") as qmp:
        await qmp.ask("query-status")
        async with asyncio.timeout(5):
            while guard.vm.gate.schema.known is None:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0)
        assert await qmp.ask("migrate-set-parameters", {"of-tomorrow": True}) == {"return": {}}
        assert_refused(await qmp.ask("migrate-set-parameters", {"of-the-day-after": True}), "unverified")


@pytest.mark.parametrize("mode", Mode)
async def test_who_leaves_before_its_turn_waits_for_it_no_longer(tmp_path: Path, mode: Mode) -> None:
    """QEMU may not answer for days, and clients may come and go by the thousand."""
    async with (
        FakeQemu(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=Policy(mode=mode)) as guard,
        connected(tmp_path / "guard.sock") as one,
    ):
        qemu.hold.add("device_add")
        one.send({"execute": "device_add", "arguments": {"driver": "vfio-pci", "id": "gpu0"}})
        await qemu.until("device_add")
        turn = guard.vm.gate.turn
        async with connected(tmp_path / "guard.sock") as two:
            two.send({"execute": "migrate-set-capabilities", "arguments": POSTCOPY, "id": 2})
            await eventually(lambda: bool(turn._waiters))
        await eventually(lambda: not turn._waiters)
        assert turn.locked()
        qemu.let_go()
        assert await one.receive() == {"return": {}}
        assert await one.ask("query-status")
        assert "migrate-set-capabilities" not in qemu.commands()
