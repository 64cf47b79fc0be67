"""A recording played to a QEMU: what the policy refuses is not sent, and replies that differ are named."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.cli import main
from qmpguard.errors import UnavailableError, UsageError
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from qmpguard.recording.lines import Exchange, Line, Members, RecordingBegins, write_line
from qmpguard.remote.playing import Played, difference, play
from qmpguard.wire.json import Number, encode
from tests.support.fakes.qemu import FakeQemu

if TYPE_CHECKING:
    from pathlib import Path

ON: Members = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
DONE: Members = {"return": {}}


def texts(*lines: Line) -> list[str]:
    return [encode(write_line(line)).decode() + "\n" for line in (RecordingBegins(), *lines)]


async def played(qemu: FakeQemu, *lines: Line, only: str | None = None) -> list[Played]:
    return await play(str(qemu.path), texts(*lines), "file", lambda policy: policy, only=only)


async def test_what_the_policy_refuses_is_never_sent(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        (one,) = await played(qemu, Exchange("vm", "migrate-set-capabilities", ON, DONE))
        assert one.skipped == "the policy refuses it by rule vfio-postcopy"
        (one,) = await played(qemu, Exchange("vm", "migrate", {"uri": "u", "odd": 1}, DONE))
        assert "does not know the argument 'odd'" in one.skipped
        assert {"migrate-set-capabilities", "migrate"} & set(qemu.commands()) == set()


async def test_what_a_guard_would_remember_counts_too(tmp_path: Path) -> None:
    vdpa = Exchange("vm", "netdev_add", {"type": "vhost-vdpa", "id": "n0", "vhostdev": "/dev/x"}, DONE)
    primary: Members = {"driver": "vfio-pci", "id": "p0", "host": "01:00.0", "failover_pair_id": "net0"}
    snapshot: Members = {"capabilities": [{"capability": "background-snapshot", "state": True}]}
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.devices["net0"] = "virtio-net-pci"
        qemu.answers["device_add"] = lambda _: {}  # QEMU hides it
        qemu.answers["qom-get"] = lambda request: request["arguments"]["property"] == "failover"
        sent = await played(
            qemu,
            vdpa,
            Exchange("vm", "migrate-set-capabilities", ON, DONE),
            Exchange("vm", "netdev_del", {"id": "n0"}, DONE),
            Exchange("vm", "device_add", primary, DONE),
            Exchange("vm", "migrate-set-capabilities", snapshot, DONE),
        )
        assert [one.skipped.rpartition(" ")[2] for one in sent] == [
            *("", "vdpa-postcopy", "", "", "vfio-background-snapshot"),
        ]
        assert "migrate-set-capabilities" not in qemu.commands()


async def test_a_command_that_the_schema_does_not_have_is_refused_where_the_policy_says_so(tmp_path: Path) -> None:
    lines = [Exchange("vm", command, None, DONE) for command in ("__vendor", "query-status", "nonsense")]
    async with FakeQemu(tmp_path / "q") as qemu:
        sent = await play(str(qemu.path), texts(*lines), "file", lambda _: Policy(profile=Profile.STRICT))
        assert [one.skipped.rpartition(" ")[2] for one in sent] == ["unknown-command", "", "unknown-command"]
        assert not {"__vendor", "nonsense"} & set(qemu.commands())


async def test_replies_are_compared(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        same = Exchange("vm", "query-status", None, {"return": {"status": "running", "running": True}})
        other = Exchange("vm", "query-status", None, {"return": {"status": "paused", "running": True}})
        error = Exchange("vm", "nonsense", None, {"error": {"class": "GenericError", "desc": "no"}})
        assert [one.difference for one in await played(qemu, same, other, error)] == [
            "",
            "return.status was 'paused', is now 'running'",
            "error.class was 'GenericError', is now 'CommandNotFound'",
        ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (Exchange("vm", "qmp_capabilities", None, DONE), "this connection is negotiated already"),
        (Exchange("vm", "getfd", {"fdname": "x"}, DONE, descriptor=True), "its descriptor is not in the recording"),
        (Exchange("vm", "object-add", {"data": "[hidden]"}, DONE), "its arguments are hidden in the recording"),
    ],
)
async def test_what_cannot_be_sent_is_named(tmp_path: Path, line: Exchange, why: str) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        (one,) = await played(qemu, line)
        assert one.skipped == why


async def test_of_several_vms_one_is_chosen(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        lines = (Exchange("a", "stop", None, DONE), Exchange("b", "cont", None, DONE))
        with pytest.raises(UsageError, match="file: say --only a or --only b"):
            await played(qemu, *lines)
        with pytest.raises(UsageError, match="there is no VM c, but a, b"):
            await played(qemu, *lines, only="c")
        assert [one.line.command for one in await played(qemu, *lines, only="b")] == ["cont"]


async def test_a_qemu_that_ends_meanwhile_is_said(tmp_path: Path) -> None:
    async with FakeQemu(tmp_path / "q") as qemu:
        qemu.answers["stop"] = lambda _: qemu.die()
        with pytest.raises(UnavailableError, match="QEMU did not answer stop: it has ended or hangs"):
            await played(qemu, Exchange("vm", "stop", None, DONE))


@pytest.mark.parametrize(
    ("then", "now", "text"),
    [
        ({"a": 1}, {"a": 1}, ""),
        ({"a": [1, 2]}, {"a": [1]}, "a had 2 entries, now has 1"),
        ({"a": {"b": "x"}}, {"a": {"b": "y"}}, "a.b was 'x', is now 'y'"),
        ({"a": 1}, {"b": 1}, "the reply had a, now has b"),
        ({"a": [{}, {"c": 1}]}, {"a": [{}, {"c": True}]}, "a[1].c was 1, is now True"),
        ({"a": "[hidden]"}, {"a": "secret"}, ""),
        ({"a": Number("2.5")}, {"a": 2.5}, ""),
    ],
)
def test_the_first_difference_is_named(then: Any, now: Any, text: str) -> None:
    assert difference(then, now) == text


async def test_the_command_warns_that_it_changes_the_vm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_text("".join(texts(Exchange("vm", "device_del", {"id": "x"}, {"return": {}}))))
    async with FakeQemu(tmp_path / "q") as qemu:
        words = ["replay", str(tmp_path / "f"), "--against", str(qemu.path), "--all"]
        assert await asyncio.to_thread(main, words) == 0
        said = capsys.readouterr()
        assert said.err == f"qmpguard: the commands of {tmp_path}/f are sent to {qemu.path}, and change its VM\n"
        assert said.out.splitlines()[-1] == "1 commands sent, 0 not; replies that differ: 0"
