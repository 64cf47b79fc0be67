"""Whether QEMU itself would refuse: what `check` says of it, beside what that QEMU does when it is asked directly."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qmpguard.policy.forecast import CPR
from qmpguard.policy.qemu_check import Refuses
from qmpguard.remote.report import check
from tests.labs.vfio.devices import Kind, mediated
from tests.labs.vfio.host import CARDS
from tests.labs.vfio.rows import Place, Row, broken, expect
from tests.labs.vfio.vms import Vm, device, started

if TYPE_CHECKING:
    from qmpguard.policy.forecast import Forecast


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM to compare on: kinds of mediated devices, the properties of each, and more words of its command line."""

    name: str
    kinds: tuple[Kind, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()
    paused: bool = False


#: a failover primary whose standby does not exist: no check of QEMU's sees it
ORPHAN = f"vfio-pci,host={CARDS[2]},id=gpu0,failover_pair_id=bogus,bus=rp0,rombar=0"
ROOT_PORT = ("-device", "pcie-root-port,id=rp0,chassis=1,slot=1")
PAIR = (("failover_pair_id", "bogus"), ("bus", "rp0"))
AUTO, OFF = (("enable-migration", "auto"),), (("enable-migration", "off"),)
MACHINES = (
    Machine("no device"),
    Machine("one device", (Kind.MIGRATABLE,)),
    Machine("two devices", (Kind.MIGRATABLE, Kind.MIGRATABLE)),
    Machine("one device, paused", (Kind.MIGRATABLE,), paused=True),
    Machine("a device that is off", (Kind.MIGRATABLE,), OFF),
    Machine("a device that cannot", (Kind.FIXED,), AUTO),
    Machine("two that cannot", (Kind.FIXED, Kind.FIXED), AUTO),
    Machine("one with P2P, one without", (Kind.MIGRATABLE, Kind.NO_P2P), AUTO),
    Machine("a card that could, without its standby", (Kind.CARD,), PAIR, ROOT_PORT),
    Machine("a card that cannot, without its standby", words=(*ROOT_PORT, "-device", ORPHAN)),
)
#: the ways of `check`, each with what is set for it
WAYS: dict[str, tuple[tuple[str, ...], str]] = {
    "plain": ((), "normal"),
    "postcopy": (("postcopy-ram",), "normal"),
    "background snapshot": (("background-snapshot",), "normal"),
    "COLO": (("return-path", "x-colo"), "normal"),
    CPR: ((), "cpr-reboot"),
}
#: nobody is there: QEMU accepts the command, and fails later; CPR looks at the devices when it has connected
NOWHERE, AWAY = "unix:/nowhere/at/all", "exec:cat >/dev/null"


def refuses(forecast: Forecast) -> Refuses:
    """Return what `check` says of QEMU itself. A way that passes without a word says that QEMU does not refuse."""
    return Refuses.NO if forecast.passes.value == "yes" else forecast.qemu_check.refuses


async def try_it(vm: Vm, way: str) -> str:
    """Return QEMU's own error when it is asked directly; empty when it accepts, or when another reason came first."""
    capabilities, mode = WAYS[way]
    for name in capabilities:
        await vm.capability(name)
    await vm.behind.ask("migrate-set-parameters", {"mode": mode})
    reply = await vm.behind.ask("migrate", {"uri": AWAY if way == CPR else NOWHERE})
    said = str(reply["error"]["desc"]) if "error" in reply else ""
    if not said:  # CPR's own check of the devices comes after the command has been accepted
        seen = await vm.ended()
        said = str(seen.get("error-desc", "")) if way == CPR else ""
    await vm.behind.ask("migrate-set-parameters", {"mode": "normal"})
    for name in reversed(capabilities):
        await vm.capability(name, on=False)
    return "" if "/nowhere" in said or "connect" in said else said


async def compare(place: Place, machine: Machine) -> tuple[list[str], int, int]:
    """Return what `check` has wrong of a machine, how often it said yes or no, and how often unknown."""
    wrong, sure, unsure = [], 0, 0
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(mediated(place.lab, *machine.kinds))
        words = [*machine.words]
        for i, one in enumerate(made):
            words += device(one.arguments(f"gpu{i}", **dict(machine.properties)))
        vm = await stack.enter_async_context(started(place, words, machine="q35"))
        if machine.paused:
            await vm.behind.ask("stop")
        report = await check(str(vm.qemu.monitors[0].with_name("guard.sock")))
        for forecast, _ in report.forecasts:
            if forecast.way not in WAYS or (not machine.kinds and not machine.words and forecast.way == "COLO"):
                continue
            says, said = refuses(forecast), await try_it(vm, forecast.way)
            if says is Refuses.UNKNOWN:
                unsure += 1
                continue
            sure += 1
            if (says is Refuses.YES) != bool(said):
                wrong.append(f"{machine.name}, {forecast.way}: check says {says.value}, QEMU: {said or 'accepts'}")
    return wrong, sure, unsure


async def truth(place: Place) -> str:
    """Compare on every machine."""
    wrong: list[str] = []
    sure = unsure = 0
    for machine in MACHINES:
        found, certain, uncertain = await compare(place, machine)
        wrong, sure, unsure = wrong + found, sure + certain, unsure + uncertain
    expect(not wrong, "; ".join(wrong))
    return f"{sure} times yes or no, all right; {unsure} times unknown"


async def only_migratable(place: Place) -> str:
    """Plug a device that cannot migrate where QEMU was started with -only-migratable, and one that can."""
    async with mediated(place.lab, Kind.FIXED, Kind.MIGRATABLE) as made, started(place, ["-only-migratable"]) as vm:
        said = await vm.error("device_add", **made[0].arguments("gpu0", **dict(AUTO)))
        expect("--only-migratable" in said, said)
        await vm.ok("device_add", **made[1].arguments("gpu1"))
    return said.replace(made[0].uuid, "UUID")


async def cpr(place: Place) -> str:
    """Migrate in mode cpr-reboot with a device, through the guard."""
    async with mediated(place.lab, Kind.MIGRATABLE) as made, started(place, device(made[0].arguments())) as vm:
        await vm.ok("migrate-set-parameters", mode="cpr-reboot")
        await vm.ok("migrate", uri="exec:cat >/dev/null")
        seen: Any = await vm.ended()
        if seen["status"] != "failed":
            broken(seen)
        return str(seen["error-desc"])


ROWS = (
    Row("truth", "check is right about what QEMU itself refuses", truth, seconds=1800),
    Row("only-migratable", "QEMU's own refusal of a device comes through", only_migratable),
    Row("CPR", "cpr-reboot passes the guard and fails in QEMU's words", cpr),
)
