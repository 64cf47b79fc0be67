"""Network back ends that access guest RAM: QEMU shows none, so the guard remembers `netdev_add` until `netdev_del`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.policy.mode import Mode, Profile
from qmpguard.policy.policy import Policy
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, assert_refused, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from pathlib import Path

POSTCOPY, SNAPSHOT = capabilities(postcopy_ram=True), capabilities(background_snapshot=True)
VDPA = {"type": "vhost-vdpa", "id": "vdpa0", "vhostdev": "/dev/vhost-vdpa-0"}
USER = {"type": "vhost-user", "id": "vdpa0", "chardev": "c"}
ADD, DEL = ("netdev_add", VDPA), ("netdev_del", {"id": "vdpa0"})
ERROR = {"class": "GenericError", "desc": "no such file"}
GONE = {"class": "DeviceNotFound", "desc": "Device 'vdpa0' not found"}


def line(text: str) -> tuple[str, dict[str, Any]]:
    return "human-monitor-command", {"command-line": text}


class WithNic(FakeQemu):
    """A QEMU whose virtio-net uses the back end, without saying of which type that is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.devices["net0"] = "virtio-net-pci"
        self.answers["netdev_add"] = self.answers["netdev_del"] = lambda _: {}
        self.answers["qom-get"] = lambda request: "vdpa0" if request["arguments"]["property"] == "netdev" else ERROR


async def refusal(qmp: Client, rule: str, wanted: dict[str, Any]) -> str:
    """Return the refusal of a capability, or nothing; then it is switched off again."""
    reply = await qmp.ask("migrate-set-capabilities", wanted)
    if "error" in reply:
        assert_refused(reply, rule)
        return str(reply["error"]["desc"])
    off = capabilities(postcopy_ram=False, background_snapshot=False)
    assert await qmp.ask("migrate-set-capabilities", off) == {"return": {}}
    return ""


async def is_remembered(qmp: Client) -> bool:
    return bool(await refusal(qmp, "vdpa-postcopy", POSTCOPY))


@pytest.mark.parametrize("add", [ADD, line("netdev_add vhost-vdpa,id=vdpa0,vhostdev=/dev/vhost-vdpa-0")], ids=str)
async def test_vdpa_behind_a_virtio_net_is_refused_with_both_and_named(
    tmp_path: Path, add: tuple[str, dict[str, Any]]
) -> None:
    async with WithNic(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.answers["human-monitor-command"] = lambda _: ""
        assert not await is_remembered(qmp)
        assert "return" in await qmp.ask(*add)
        assert "'netdev vdpa0 of net0'" in await refusal(qmp, "vdpa-postcopy", POSTCOPY)
        assert "'netdev vdpa0 of net0'" in await refusal(qmp, "snapshot-foreign-dma", SNAPSHOT)
        qemu.capabilities["postcopy-ram"] = True  # by another monitor
        assert_refused(await qmp.ask("migrate", {"uri": "unix:/x"}), "vdpa-postcopy")


async def test_a_vhost_user_back_end_hinders_a_background_snapshot_only(tmp_path: Path) -> None:
    async with WithNic(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        assert await qmp.ask("netdev_add", USER) == {"return": {}}
        assert not await is_remembered(qmp)
        assert "'netdev vdpa0 of net0'" in await refusal(qmp, "snapshot-foreign-dma", SNAPSHOT)


async def test_with_the_capability_on_the_back_end_is_refused(tmp_path: Path) -> None:
    async with WithNic(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.capabilities["postcopy-ram"] = True
        assert_refused(await qmp.ask(*ADD), "vdpa-postcopy")
        assert "netdev_add" not in qemu.commands()


@pytest.mark.parametrize("gone", [DEL, line("netdev_del vdpa0")], ids=str)
@pytest.mark.parametrize("answer", [{}, GONE], ids=["removed", "there is none"])
async def test_it_is_forgotten_when_qemu_has_removed_it(tmp_path: Path, gone: Any, answer: dict[str, str]) -> None:
    async with WithNic(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.answers["netdev_del"] = lambda _: answer
        qemu.answers["human-monitor-command"] = lambda _: f"Error: {answer['desc']}\r\n" if answer else ""
        await qmp.ask(*ADD)
        await qmp.ask(*gone)
        assert not await is_remembered(qmp)


async def test_it_stays_where_qemu_refuses_to_remove_it_or_another_is_removed(tmp_path: Path) -> None:
    async with WithNic(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        await qmp.ask(*ADD)
        assert await qmp.ask("netdev_del", {"id": "vdpa1"}) == {"return": {}}
        assert await is_remembered(qmp)
        qemu.answers["netdev_del"] = lambda _: ERROR
        assert "error" in await qmp.ask(*DEL)
        assert await is_remembered(qmp)


async def test_one_that_qemu_has_refused_is_not_remembered(tmp_path: Path) -> None:
    async with WithNic(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.answers["netdev_add"] = lambda _: ERROR
        assert "error" in await qmp.ask(*ADD)
        assert not await is_remembered(qmp)


@pytest.mark.parametrize("same", [True, False], ids=["the same QEMU", "another QEMU"])
async def test_a_connection_that_is_lost_before_the_reply_leaves_it_in_mind_for_this_qemu_only(
    tmp_path: Path, *, same: bool
) -> None:
    async with WithNic(tmp_path / "q") as qemu, guarding(qemu.path) as guard:

        def die(_: dict[str, Any]) -> Any:
            qemu.die()
            return {}

        async with connected(tmp_path / "guard.sock") as qmp:
            qemu.answers["netdev_add"] = die
            qmp.send({"execute": "netdev_add", "arguments": VDPA})
            assert await qmp.closed()
        if not same:
            await qemu.stop()
            await qemu.start()
        await eventually(lambda: qemu.connections >= 2 and guard.vm.connected.is_set())
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await is_remembered(qmp) is same


async def test_where_the_rule_is_off_nothing_is_refused(tmp_path: Path) -> None:
    off = Policy(rules={"vdpa-postcopy": Mode.OFF})
    async with (
        WithNic(tmp_path / "q") as qemu,
        guarding(qemu.path, policy=off),
        connected(tmp_path / "guard.sock") as q,
    ):
        await q.ask(*ADD)
        assert not await is_remembered(q)


async def test_profile_strict_takes_no_line_about_it(tmp_path: Path) -> None:
    strict, path = Policy(profile=Profile.STRICT), tmp_path / "guard.sock"
    async with WithNic(tmp_path / "q") as qemu, guarding(qemu.path, policy=strict), connected(path) as q:
        assert "hmp-write" in str(await q.ask(*line("netdev_add vhost-vdpa,id=vdpa0")))
        assert "hmp-write" in str(await q.ask(*line("netdev_del vdpa0")))
        assert await q.ask(*DEL) == {"return": {}}
