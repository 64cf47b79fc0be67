"""The recording of a guard: all that passed is in it, secrets are not, and it can be judged again."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.logs.conversation import MAX_REPLY, MAX_VERDICTS, ConversationLog, _reply
from qmpguard.logs.secret import HIDDEN, redacted_reply
from qmpguard.policy.device import Device
from qmpguard.policy.facts import Facts
from qmpguard.policy.policy import Policy
from qmpguard.policy.verdict import Verdict
from qmpguard.record import Decision, Entry, LinkChange, Peer
from qmpguard.recording.replay import replay
from qmpguard.wire.json import encode
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, assert_refused, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path


class Lines:
    """A sink in memory."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.lost = 0

    def put(self, line: bytes) -> None:
        self.texts.append(line.decode() + "\n")

    def count(self) -> None:
        self.lost += 1

    @property
    def members(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts]


class DefaultPolicy:
    def __init__(self, remembered: Facts | None = None) -> None:
        self.facts = remembered or Facts()

    def policy(self, vm: str) -> tuple[Policy, frozenset[str]]:
        return Policy(), frozenset()

    def remembered(self, vm: str) -> Facts:
        return self.facts


@asynccontextmanager
async def recorded(folder: Path) -> AsyncGenerator[tuple[Lines, FakeQemu, Client]]:
    """A guard that records into memory from its first moment, and a client."""
    lines = Lines()
    log = ConversationLog(lines, DefaultPolicy())
    async with FakeQemu(folder / "qemu.sock") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        async with guarding(folder / "later.sock", folder / "guard.sock", up=False) as guard:
            guard.vm.hub.traffic = log
            guard.vm.journal.listen(log.on_entry)
            os.symlink(qemu.path, folder / "later.sock")  # noqa: PTH211 -- QEMU appears
            async with connected(folder / "guard.sock") as client:
                yield lines, qemu, client


async def test_what_a_guard_records_is_judged_the_same_again(tmp_path: Path) -> None:
    async with recorded(tmp_path) as (lines, _, client):
        assert_refused(await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True)), "vfio-postcopy")
        assert "return" in await client.ask("migrate", {"uri": "exec:cat"})
        assert "return" in await client.ask("query-status")
    judged = list(replay(lines.texts, "memory", lambda policy: policy))
    assert [(one.line.command, str(one.then)) for one in judged] == [
        ("migrate-set-capabilities", "refused by vfio-postcopy"),
        ("migrate", "allowed"),
    ]
    assert [one for one in judged if one.differs or one.reason] == []
    assert lines.lost == 0


async def test_a_recording_has_the_link_the_policy_events_and_the_guards_own_queries(tmp_path: Path) -> None:
    async with recorded(tmp_path) as (lines, qemu, client):
        qemu.emit("STOP")
        assert (await client.receive())["event"] == "STOP"
        await client.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
    begin, link, policy = lines.members[:3]
    assert begin["recording"] == 1
    assert (link["vm"], link["link"], link["qemu"]) == ("test", "up", "8.1.0")
    assert policy["policy"]["mode"] == "enforce"
    assert [line["event"] for line in lines.members if "event" in line] == ["STOP"]
    own = {line["execute"] for line in lines.members if line.get("client") == "guard"}
    assert {"qmp_capabilities", "query-migrate-capabilities", "qom-list"} <= own | {"qmp_capabilities"}
    assert all("time" in line for line in lines.members)


async def test_what_is_remembered_of_a_qemu_is_written_on_its_next_link_and_judges_the_same_again(
    tmp_path: Path,
) -> None:
    lines = Lines()
    hidden = Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0", failover_pair_id="net0")
    async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        log = ConversationLog(lines, DefaultPolicy(Facts(hidden=(hidden,), negotiated=frozenset({"net9"}))))
        guard.vm.journal.listen(log.on_entry)
        guard.vm.hub.traffic = log
        qemu.devices["net0"] = "virtio-net-pci"
        qemu.answers["qom-get"] = lambda request: request["arguments"]["property"] == "failover"
        guard.vm.gate.memory.primaries.add(hidden)
        qemu.die()  # and comes again as the same process
        await eventually(lambda: guard.vm.counts.links == 2)
        async with connected(tmp_path / "guard.sock") as client:
            on = capabilities(postcopy_ram=True)
            assert_refused(await client.ask("migrate-set-capabilities", on), "vfio-postcopy")
    (line,) = [line for line in lines.members if "remembered" in line]
    assert [device["id"] for device in line["remembered"]["hidden"]] == ["gpu0"]
    (again,) = replay(lines.texts, "memory", lambda policy: policy)
    assert (str(again.then), again.differs) == ("refused by vfio-postcopy", False)
    without = [text for text in lines.texts if '"remembered"' not in text]
    (again,) = replay(without, "memory", lambda policy: policy)
    assert again.differs


async def test_a_descriptor_is_noted(tmp_path: Path) -> None:
    async with recorded(tmp_path) as (lines, _, client):
        client.with_descriptors(b'{"execute": "getfd", "arguments": {"fdname": "x"}}', 0)
        assert await client.receive() == {"return": {}}
    (line,) = [line for line in lines.members if line.get("execute") == "getfd"]
    assert line["descriptor"] is True


async def test_no_secret_is_recorded(tmp_path: Path) -> None:
    async with recorded(tmp_path) as (lines, qemu, client):
        qemu.answers["qom-get"] = lambda request: "s3cret" if request["arguments"]["property"] == "password" else ""
        qemu.answers["ringbuf-read"] = lambda _: "s3cret"
        qemu.answers["human-monitor-command"] = lambda _: "s3cret"
        for command, arguments in (
            ("qom-get", {"path": "/objects/s", "property": "password"}),
            ("object-add", {"qom-type": "secret", "id": "s", "data": "s3cret"}),
            ("ringbuf-read", {"device": "d", "size": 9}),
            ("human-monitor-command", {"command-line": "x /9c s3cret"}),
            ("migrate", {"uri": "exec:s3cret"}),
        ):
            assert "return" in await client.ask(command, arguments)
    assert "s3cret" not in "".join(lines.texts)
    assert sum(HIDDEN in text for text in lines.texts) >= 5


def test_of_a_line_of_hmp_the_errors_stay_and_what_info_says() -> None:
    def said(line: str, text: str) -> Any:
        return redacted_reply("human-monitor-command", {"command-line": line}, {"return": text})["return"]

    assert said("migrate u", "") == ""
    assert said("migrate u", "Error: no\r\n") == "Error: no\r\n"
    assert said("info status", "VM status: running\r\n") == "VM status: running\r\n"
    assert said("x /1 0", "00: 1\r\n") == HIDDEN


def test_the_schema_stays_whole_and_long_replies_do_not() -> None:
    long: list[Any] = ["x" * 1000] * 1000
    assert redacted_reply("query-qmp-schema", None, {"return": long}) == {"return": long}
    assert "[left out]" in str(redacted_reply("query-block", None, {"return": long}))


@pytest.mark.parametrize(
    "reply",
    [
        b'{"return": {"a": %b}}' % (b"7" * 5000),
        b'{"return": "\xff"}',
        b'{junk, "id": 3}',
        b'{"return": %b%b}' % (b"[" * 3000, b"]" * 3000),
        b"[1]",
        b'{"return": "%b"}' % (b"x" * MAX_REPLY),
    ],
)
def test_a_reply_that_no_qemu_sends_is_left_out(reply: bytes) -> None:
    assert _reply("query-name", None, reply) == {"return": "[left out]"}


def test_numbers_that_are_none_keep_their_spelling() -> None:
    reply = _reply("query-name", None, b'{"return": [NaN, -Infinity, 1.50, "\\u00e9"]}')
    assert encode(reply) == b'{"return": [NaN, -Infinity, 1.50, "\\u00E9"]}'


def test_a_rotated_file_begins_as_a_new_one() -> None:
    lines = Lines()
    log = ConversationLog(lines, DefaultPolicy())
    log.on_entry(Entry(1, 1.0, "vm", LinkChange(up=True, what="8.1.0")))
    before = len(lines.texts)
    log.begin()
    assert [set(line) - {"time"} for line in lines.members[before:]] == [
        {"recording", "program"},
        {"vm", "link", "qemu"},
        {"vm", "policy"},
    ]


def test_verdicts_whose_replies_never_come_are_not_kept_for_ever() -> None:
    log = ConversationLog(Lines(), DefaultPolicy())
    for number in range(MAX_VERDICTS + 10):
        log.on_entry(Entry(number, 1.0, "vm", Decision("ref", Peer(number), "migrate", Verdict(), "8.1.0")))
    assert len(log._verdicts) == MAX_VERDICTS


def test_a_line_that_cannot_be_built_is_counted_and_harms_nobody(caplog: Any) -> None:
    class Broken:
        def policy(self, vm: str) -> tuple[Policy, frozenset[str]]:
            raise KeyError(vm)

        def remembered(self, vm: str) -> Facts:
            raise KeyError(vm)

    lines = Lines()
    log = ConversationLog(lines, Broken())
    log.on_entry(Entry(1, 1.0, "vm", LinkChange(up=True, what="8.1.0")))
    assert lines.lost == 1
    assert "a line of the recording cannot be built" in caplog.text
