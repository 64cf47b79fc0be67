"""The golden tables of `tests/policy`, sent to QEMUs with a real `vfio-pci` device.

The rows are the same as in `tests/e2e/test_tables.py`. Where a row plugs a `vfio-user-pci`, here it is a `vfio-pci` on
a mediated device.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from tests.e2e.test_tables import VOLATILE, Vm, needs_vfio, prepare, refused_by, until
from tests.labs.vfio.devices import Kind, Mediated, mediated
from tests.labs.vfio.machine import LabQemu, Release
from tests.labs.vfio.rows import Place, Row, broken, expect
from tests.labs.vfio.vms import SURVEY
from tests.policy.test_honest import HONEST, STRICT_HONEST
from tests.policy.test_routes import ROUTES, STRICT_ROUTES
from tests.support.guarding import connected, guarding
from tests.support.scenes import PRIMARY, Request, Scene

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

#: the tables by profile: routes to harm, and honest requests
ROUTES_OF = {Profile.STANDARD: ROUTES, Profile.STRICT: STRICT_ROUTES}
HONEST_OF = {Profile.STANDARD: HONEST, Profile.STRICT: STRICT_HONEST}
#: the scenes' own names for a QEMU before and after the changes that they care for
AGES = {Release.OLD: (), Release.NEW: ("11.1",)}


def shown(scene: Scene, release: Release) -> bool:
    """Whether a QEMU of the lab can show a scene."""
    return not scene.only or scene.only in AGES[release]


def arguments_of(scene: Scene, device: Mediated, place: str) -> list[str]:
    """Return QEMU's arguments for a scene; ``place`` is a folder in the guest."""
    words: list[str] = []
    if scene.device:
        words += ["-device", json.dumps(device.arguments(None if scene.anonymous else "gpu0"))]
    if scene.standby:
        words += ["-device", "virtio-net-pci,id=net0,failover=on"]
    words += ["-incoming", "defer"] * scene.incoming + ["-S"] * (not scene.started)
    if scene.shared:
        backend = f"memory-backend-file,id=ram0,size=64M,share=on,mem-path={place}"
        words += ["-object", backend, "-machine", "memory-backend=ram0"]
    for name in scene.capabilities if scene.by_global else ():
        words += ["-global", f"migration.x-{name}=on"]
    return words


def translated(request: Request, device: Mediated) -> Request:
    """Return a row's request with a real `vfio-pci` where it plugs the device of the other lab."""
    arguments = request.get("arguments", {})
    if "$VFIO" not in json.dumps(arguments):
        return request
    return {**request, "arguments": device.arguments(arguments["id"])}


@asynccontextmanager
async def come_true(place: Place, scene: Scene, device: Mediated, policy: Policy | None) -> AsyncGenerator[Vm]:
    """Start the VM that a scene describes, as `tests/e2e/test_tables.py` does; with no policy no guard is there."""
    folder = place.folder / str(place.lab.fresh())
    folder.mkdir()
    words = arguments_of(scene, device, f"/tmp/ram{folder.name}")
    async with AsyncExitStack() as stack:
        qemu = await stack.enter_async_context(LabQemu(place.lab, place.release, folder, words, monitors=2))
        behind = await stack.enter_async_context(connected(qemu.monitors[1], early=True))
        if scene.migration == "completed":
            expect(await behind.ask("migrate", {"uri": "exec:cat >/dev/null"}) == {"return": {}}, "migrate")
            await until(behind, "completed")
        await prepare(scene, behind)
        if policy:
            await stack.enter_async_context(guarding(qemu.monitors[0], policy=policy, survey_timeout=SURVEY))
        socket = folder / "guard.sock" if policy else qemu.monitors[0]
        vm = Vm(await stack.enter_async_context(connected(socket, early=policy is None)), behind, Path(device.path))
        if scene.used:
            expect(await vm.qmp.ask("migrate", {"uri": "unix:/nowhere"}) == {"return": {}}, "migrate")
            await until(behind, scene.migration)
        if scene.hidden:
            expect(await vm.qmp.ask("device_add", PRIMARY) == {"return": {}}, "device_add of the primary")
        yield vm


async def refused(place: Place, scene: Scene, profile: Profile, rows: Sequence[tuple[Scene, Request, str]]) -> None:
    """Every route of a scene is refused by its rule, and nothing is changed."""
    async with (
        mediated(place.lab, Kind.MIGRATABLE) as (device,),
        come_true(place, scene, device, Policy(profile=profile)) as vm,
    ):
        before = await vm.state()
        for _, request, rule in rows:
            reply = await vm.send(request)
            if refused_by(reply) != rule:
                broken(f"{scene.name}: {request}: {reply}, not by {rule}")
        expect(await vm.state() == before, f"{scene.name}: it is not as it was")


async def routes(place: Place) -> str:
    """Send every route of both profiles."""
    count = 0
    for profile, table in ROUTES_OF.items():
        for scene in dict.fromkeys(row[0] for row in table if shown(row[0], place.release)):
            rows = [row for row in table if row[0] is scene]
            await refused(place, scene, profile, rows)
            count += len(rows)
    return f"{count} routes refused"


async def answer(place: Place, scene: Scene, request: Request, device: Mediated, policy: Policy | None) -> Any:
    """Return what a fresh VM answers to an honest request: through a guard with a policy, or directly."""
    async with come_true(place, scene, device, policy) as vm:
        reply = json.dumps(await vm.send(translated(request, device)))
        return json.loads(reply.replace(device.uuid, "UUID"))


async def same(place: Place, scene: Scene, request: Request, policy: Policy) -> None:
    """Send an honest request through a guard, and to another VM directly: the answers are the same."""
    async with mediated(place.lab, Kind.MIGRATABLE, Kind.MIGRATABLE) as made, asyncio.TaskGroup() as tasks:
        pairs = zip(made, (policy, None), strict=True)
        asked = [tasks.create_task(answer(place, scene, request, one, by)) for one, by in pairs]
    replies = [task.result() for task in asked]
    if request["execute"] in VOLATILE or "info" in str(request.get("arguments")):
        replies = [{**reply, "return": str(type(reply["return"]))} for reply in replies]
    expect(replies[0] == replies[1], f"{scene.name}: {request}: {replies[0]}, and QEMU says {replies[1]}")


async def honest(place: Place) -> str:
    """Send every honest request that needs a VFIO device, in both profiles."""
    count = 0
    for profile, table in HONEST_OF.items():
        for _, scene, request in table:
            if shown(scene, place.release) and needs_vfio(scene, request):
                await same(place, scene, request, Policy(profile=profile))
                count += 1
    return f"{count} honest requests answered as QEMU does"


ROWS = (
    Row("routes", "every route to harm is refused and changes nothing", routes, seconds=900),
    Row("honest", "every honest request with a VFIO device gets QEMU's own answer", honest, seconds=1800),
)
