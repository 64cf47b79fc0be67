"""Failover primaries that QEMU accepts and hides: the guard remembers them, and forgets them when they are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.policy.device import Device
from qmpguard.proxy.judging.remembered import RememberedDevices
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import Client, assert_refused, capabilities, connected, eventually, guarding
from tests.support.scenes import PRIMARY

if TYPE_CHECKING:
    from pathlib import Path

POSTCOPY = capabilities(postcopy_ram=True)
LEGACY = {"driver": "e1000", "id": "gpu0"}
USER = {"driver": "vfio-user-pci", "id": "gpu0"}


class Hiding(FakeQemu):
    """A QEMU with a failover standby, which hides its primary."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.devices["net0"] = "virtio-net-pci"
        self.answers["device_add"] = self._add
        self.answers["qom-get"] = self._get

    def _add(self, request: dict[str, Any]) -> Any:
        if "failover_pair_id" not in request["arguments"]:
            self.devices[request["arguments"]["id"]] = request["arguments"]["driver"]
        return {}

    def _get(self, request: dict[str, Any]) -> Any:
        if request["arguments"]["property"] == "failover_pair_id":
            return "net0" if self.devices["gpu0"] == "vfio-pci" else ""
        return request["arguments"] == {"path": "/machine/peripheral/net0", "property": "failover"}


async def hide(qmp: Client) -> None:
    assert await qmp.ask("device_add", PRIMARY) == {"return": {}}


async def refuses(qmp: Client) -> bool:
    """Whether postcopy is refused because of the hidden primary; if not, it is switched off again."""
    reply = await qmp.ask("migrate-set-capabilities", POSTCOPY)
    if "error" in reply:
        assert_refused(reply, "vfio-postcopy")
        assert "'gpu0'" in reply["error"]["desc"]
        return True
    assert await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=False)) == {"return": {}}
    return False


def test_one_that_is_added_again_is_remembered_once() -> None:
    remembered, device = RememberedDevices(), Device("/machine/peripheral/gpu0", "vfio-pci", "gpu0")
    remembered.add(device)
    remembered.add(device)
    assert [device.id for device in remembered.devices] == ["gpu0"]
    remembered.forget("gpu0")
    assert not remembered.devices


async def test_a_primary_that_qemu_hides_is_remembered(tmp_path: Path) -> None:
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        assert not await refuses(qmp)
        await hide(qmp)
        assert "gpu0" not in qemu.devices
        assert await refuses(qmp)
        assert await refuses(qmp)


async def test_a_primary_that_qemu_refused_is_not_remembered(tmp_path: Path) -> None:
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.answers["device_add"] = lambda _: {"class": "GenericError", "desc": "no room"}
        assert "error" in await qmp.ask("device_add", PRIMARY)
        assert not await refuses(qmp)


@pytest.mark.parametrize("gone", ["shown and unplugged", "its standby unplugged"])
async def test_it_is_forgotten_when_it_is_gone(tmp_path: Path, gone: str) -> None:
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        await hide(qmp)
        if gone == "shown and unplugged":
            qemu.emit("FAILOVER_NEGOTIATED", **{"device-id": "net0"})
            qemu.devices["gpu0"] = "vfio-pci"
            assert not await refuses(qmp)  # a matched pair is warned of, though no look has come between
            del qemu.devices["gpu0"]
        else:
            del qemu.devices["net0"]
        assert not await refuses(qmp)


@pytest.mark.parametrize("other", [LEGACY, USER], ids=str)
@pytest.mark.parametrize("first", ["the primary", "the other device"])
async def test_another_device_with_its_id_is_not_it(tmp_path: Path, first: str, other: dict[str, str]) -> None:
    """QEMU takes the id for another device, before and after, and goes on hiding the primary."""
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        if first == "the primary":
            await hide(qmp)
        assert await qmp.ask("device_add", other) == {"return": {}}
        if first == "the other device":
            assert await qmp.ask("device_add", PRIMARY) == {"return": {}}
        assert await refuses(qmp)
        del qemu.devices["gpu0"]
        assert await refuses(qmp)


async def test_a_lost_connection_is_no_reason_to_forget_it(tmp_path: Path) -> None:
    """A client can cut the guard's own connection with yank."""
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            await hide(qmp)
        qemu.die()
        await eventually(lambda: qemu.connections == 2 and guard.vm.connected.is_set())
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await refuses(qmp)


async def test_another_qemu_has_none(tmp_path: Path) -> None:
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        async with connected(tmp_path / "guard.sock") as qmp:
            await hide(qmp)
        await qemu.stop()
        await qemu.start()
        await eventually(lambda: qemu.connections == 2 and guard.vm.connected.is_set())
        async with connected(tmp_path / "guard.sock") as qmp:
            assert not await refuses(qmp)


@pytest.mark.parametrize("replied", [True, False], ids=["after the reply", "before the reply"])
@pytest.mark.parametrize("same", [True, False], ids=["the same QEMU", "another QEMU"])
async def test_a_connection_that_is_lost_before_the_look_leaves_it_in_mind_for_this_qemu_only(
    tmp_path: Path, *, replied: bool, same: bool
) -> None:
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path) as guard:

        def and_die(request: dict[str, Any]) -> Any:
            if replied:
                qemu.send({"return": {}, "id": request["id"]})
            qemu.die()
            return {}

        async with connected(tmp_path / "guard.sock") as qmp:
            qemu.answers["device_add"] = and_die
            qmp.send({"execute": "device_add", "arguments": PRIMARY})
            assert await qmp.closed()
        if not same:
            await qemu.stop()
            await qemu.start()
        seen = len(qemu.commands())
        await eventually(lambda: qemu.connections >= 2 and guard.vm.connected.is_set())
        async with connected(tmp_path / "guard.sock") as qmp:
            assert await qmp.ask("query-name") == {"return": {}}
            assert qemu.commands()[seen:] == ["query-name"]
            assert await refuses(qmp) is same


async def test_a_primary_that_was_never_sent_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path) as guard:
        with monkeypatch.context() as patch:
            patch.setattr(guard.vm.hub, "_forward", lambda pending: pending.discard())
            async with connected(tmp_path / "guard.sock") as qmp:
                qmp.send({"execute": "device_add", "arguments": PRIMARY})
                await eventually(lambda: guard.vm.counts.allowed == 1)
                await eventually(lambda: not guard.vm.gate.turn.locked())
        assert "device_add" not in qemu.commands()
        assert guard.vm.gate.memory.primaries.devices == ()


async def test_a_primary_that_came_before_its_standby_is_no_matched_one_until_the_guest_has_negotiated(
    tmp_path: Path,
) -> None:
    async with Hiding(tmp_path / "q") as qemu, guarding(qemu.path), connected(tmp_path / "guard.sock") as qmp:
        qemu.devices["gpu0"] = "vfio-pci"
        assert await refuses(qmp)
        qemu.emit("FAILOVER_NEGOTIATED", **{"device-id": "net0"})
        assert not await refuses(qmp)
        qemu.emit("DEVICE_DELETED", device="net0", path="/machine/peripheral/net0")
        assert await refuses(qmp)  # another standby of that id has negotiated nothing
