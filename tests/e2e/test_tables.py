"""The golden tables of `tests/policy`, sent to real QEMUs: 11.1 with a real VFIO device, 7.2 for what needs none."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from tests.policy.test_honest import HONEST, STRICT_HONEST
from tests.policy.test_routes import ROUTES, STRICT_ROUTES
from tests.support.guarding import TIMEOUT, Client, connected, guarding
from tests.support.scenes import PRIMARY

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from tests.support.scenes import Request, Scene

QEMUS = [pytest.param(system_qemu, id="system"), pytest.param(vfio_qemu, id="11.1", marks=pytest.mark.qemu11)]
#: what QEMU says of itself differs between two runs
VOLATILE = {"query-migrate", "query-status"}


@dataclass
class Vm:
    """A scene come true: a client, and a second monitor that no guard sees."""

    qmp: Client
    behind: Client
    vfio: Path

    async def send(self, request: Request) -> Any:
        """Send a row's request and return its reply, with the real path where the row has a placeholder."""
        text = json.dumps({"id": "row", **request}).replace("$VFIO", str(self.vfio))
        self.qmp.raw(text.encode())
        while "event" in (reply := await self.qmp.receive()):
            pass
        assert reply["id"] == request.get("id", "row")
        return reply

    async def state(self) -> Any:
        """What a refused request must leave as it is."""
        return (
            await self.behind.ask("query-migrate-capabilities"),
            [e["name"] for e in (await self.behind.ask("qom-list", {"path": "/machine/peripheral"}))["return"]],
            (await self.behind.ask("query-migrate"))["return"].get("status"),
        )


def arguments_of(scene: Scene, folder: Path, vfio: Path) -> list[str]:
    """QEMU's arguments for a scene."""
    arguments: list[str] = []
    if scene.device:
        device = vfio_user_device(vfio, id="gpu0")
        if scene.anonymous:
            del device["id"]
        arguments += ["-device", json.dumps(device)]
    if scene.standby:
        arguments += ["-device", "virtio-net-pci,id=net0,failover=on"]
    if scene.incoming:
        arguments += ["-incoming", "defer"]
    if not scene.started:
        arguments += ["-S"]
    if scene.shared:
        backend = f"memory-backend-file,id=ram0,size=64M,share=on,mem-path={folder / 'ram'}"
        arguments += ["-object", backend, "-machine", "memory-backend=ram0"]
    for name in scene.capabilities if scene.by_global else ():
        arguments += ["-global", f"migration.x-{name}=on"]
    return arguments


async def prepare(scene: Scene, behind: Client) -> None:
    """Bring about, behind the guard's back, what the command line cannot."""
    if not scene.by_global:
        states = [{"capability": c, "state": True} for c in scene.capabilities]
        assert await behind.ask("migrate-set-capabilities", {"capabilities": states}) == {"return": {}}
    if scene.mode:
        mode = {"mode": scene.mode} | ({"cpr-exec-command": ["q"]} if scene.mode == "cpr-exec" else {})
        assert await behind.ask("migrate-set-parameters", mode) == {"return": {}}
    if scene.paused:
        assert await behind.ask("stop") == {"return": {}}


@asynccontextmanager
async def come_true(
    scene: Scene, binary: Path, folder: Path, vfio: Path, policy: Policy | None = None, *, guarded: bool = True
) -> AsyncGenerator[Vm]:
    """Start the VM that a scene describes."""
    folder.mkdir()
    arguments = arguments_of(scene, folder, vfio)
    async with AsyncExitStack() as stack:
        qemu = await stack.enter_async_context(Qemu(binary, folder, arguments, monitors=2, machine="pc"))
        behind = await stack.enter_async_context(connected(qemu.monitors[1]))
        if scene.migration == "completed":
            assert await behind.ask("migrate", {"uri": "exec:cat >/dev/null"}) == {"return": {}}
            await until(behind, "completed")
        await prepare(scene, behind)
        if guarded:
            await stack.enter_async_context(guarding(qemu.monitors[0], policy=policy))
        socket = folder / "guard.sock" if guarded else qemu.monitors[0]
        vm = Vm(await stack.enter_async_context(connected(socket)), behind, vfio)
        if scene.used:
            assert await vm.qmp.ask("migrate", {"uri": "unix:/nowhere"}) == {"return": {}}
            await until(behind, scene.migration)
        if scene.hidden:
            assert await vm.qmp.ask("device_add", PRIMARY) == {"return": {}}
        yield vm


async def until(qmp: Client, status: str) -> None:
    async with asyncio.timeout(TIMEOUT):
        while (await qmp.ask("query-migrate"))["return"].get("status") != status:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.02)


def refused_by(reply: Any) -> str:
    """The rule that a reply names: an error, or for HMP a text that is one."""
    text = reply["error"]["desc"] if "error" in reply else reply["return"]
    assert isinstance(text, str), f"not refused: {reply}"
    if "error" not in reply:
        assert text.startswith("Error: ")
        assert text.endswith("\r\n")
    return text.partition("qmpguard: rule ")[2].partition(",")[0].partition(";")[0]


def marks(binary: Any, scene: Scene) -> list[Any]:
    """The marks of a case. QEMU tries userfaultfd when it is told of what needs it: postcopy, where a VM arrives."""
    needs = "background-snapshot" in scene.capabilities or (scene.incoming and "postcopy-ram" in scene.capabilities)
    return [*binary.marks, *[pytest.mark.userfaultfd] * needs]


def scenes(rows: list[tuple[Scene, Request, str]], binary: Callable[[], Path]) -> list[Scene]:
    """The scenes of a table that a QEMU can show."""
    found = dict.fromkeys(row[0] for row in rows)
    return [scene for scene in found if can_show(binary, scene)]


def can_show(binary: object, scene: Scene) -> bool:
    """Whether a QEMU has what a scene needs."""
    version = "11.1" if binary is vfio_qemu else "7.2"
    return (version == "11.1" or not scene.device) and scene.only in ("", version)


CASES = [
    pytest.param(
        binary.values[0], scene, profile, id=f"{binary.id}-{profile.value}-{scene.name}", marks=marks(binary, scene)
    )
    for binary in QEMUS
    for profile, table in ((Profile.STANDARD, ROUTES), (Profile.STRICT, STRICT_ROUTES))
    for scene in scenes(table, binary.values[0])  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("binary", "scene", "profile"), CASES)
async def test_every_route_is_refused_and_changes_nothing(
    tmp_path: Path, binary: Callable[[], Path], scene: Scene, profile: Profile
) -> None:
    rows = [row for row in (ROUTES if profile is Profile.STANDARD else STRICT_ROUTES) if row[0] is scene]
    async with (
        VfioUserServer(tmp_path / "vu.sock") as server,
        come_true(scene, binary(), tmp_path / "vm", server.path, Policy(profile=profile)) as vm,
    ):
        before = await vm.state()
        for _, request, rule in rows:
            assert refused_by(await vm.send(request)) == rule, request
        assert await vm.state() == before


def needs_vfio(scene: Scene, request: Request) -> bool:
    return scene.device or "$VFIO" in json.dumps(request)


HONEST_CASES = [
    pytest.param(
        binary.values[0],
        scene,
        request,
        profile,
        id=f"{binary.id}-{profile.value}-{i}-{tool}",
        marks=marks(binary, scene),
    )
    for binary in QEMUS
    for profile, table in ((Profile.STANDARD, HONEST), (Profile.STRICT, STRICT_HONEST))
    for i, (tool, scene, request) in enumerate(table)
    if can_show(binary.values[0], scene) and (binary.values[0] is vfio_qemu or not needs_vfio(scene, request))
]


@pytest.mark.parametrize(("binary", "scene", "request_", "profile"), HONEST_CASES)
async def test_every_honest_request_gets_what_qemu_itself_answers(
    tmp_path: Path, binary: Callable[[], Path], scene: Scene, request_: Request, profile: Profile
) -> None:
    async with (
        VfioUserServer(tmp_path / "vu.sock") as server,
        come_true(scene, binary(), tmp_path / "a", server.path, Policy(profile=profile)) as guarded,
        come_true(scene, binary(), tmp_path / "b", server.path, guarded=False) as direct,
    ):
        answers = [await vm.send(request_) for vm in (guarded, direct)]
        if request_["execute"] in VOLATILE or "info" in str(request_.get("arguments")):
            answers = [{**answer, "return": type(answer["return"])} for answer in answers]
        assert answers[0] == answers[1]
