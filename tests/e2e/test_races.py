"""Three clients plug, unplug, set, unset, migrate and cancel at random; a second monitor watches what comes of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import vfio_qemu
from qmpguard.demo.qemu import Qemu, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from qmpguard.policy.migration import DANGEROUS, OVER
from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from tests.support.guarding import Client, capabilities, connected, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

pytestmark = pytest.mark.qemu11

#: rounds of a game, and of one in which chance has not brought about yet what must be seen
ROUNDS, MOST_ROUNDS = 200, 2000
#: a root port whose slot no guest has switched on: a device leaves as soon as it is asked to
SLOT = [
    *("-device", "pcie-root-port,id=rp0,chassis=1,slot=1"),
    *("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"),
]
#: bytes a second: a migration that lasts for many rounds, and one that is over before the next
CRAWL, RUN = 20_000, 1 << 30
#: seconds after which nothing more comes: a crawling migration sends something ten times a second
SILENCE = 1.0
#: What QEMU 11.1 says when it aborts by itself: a `migrate` came while the cancelled one before it was not gone. The
#: game goes on with another QEMU.
ABORTS, MOST_QEMUS = "duplicate yank instance", 5


def deeds(device: dict[str, Any], away: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("device_add", device),
        ("device_add", device),
        ("device_del", {"id": "gpu0"}),
        ("migrate-set-capabilities", capabilities(postcopy_ram=True)),
        ("migrate-set-capabilities", capabilities(postcopy_ram=False)),
        ("migrate-set-capabilities", capabilities(background_snapshot=True, postcopy_ram=False)),
        ("migrate-set-capabilities", capabilities(background_snapshot=False)),
        ("human-monitor-command", {"command-line": "migrate_set_capability postcopy-ram on"}),
        ("migrate-set-parameters", {"max-bandwidth": CRAWL}),
        ("migrate-set-parameters", {"max-bandwidth": CRAWL}),
        ("migrate-set-parameters", {"max-bandwidth": RUN}),
        ("cont", {}),  # a migration that has completed leaves the VM stopped, and QEMU migrates it no more
        ("cont", {}),
        ("migrate", {"uri": away}),
        ("migrate", {"uri": away}),
        ("human-monitor-command", {"command-line": f"migrate -d {away}"}),
        ("migrate_cancel", {}),
        ("migrate_cancel", {}),
    ]


@asynccontextmanager
async def sink(path: Path) -> AsyncGenerator[str]:
    """Take in whatever migrations send; yield the URI of it.

    A migration with postcopy-ram on also listens, and QEMU 11.1 joins its listening thread in the main loop. A cancel
    that comes before the connection stands is not told to that thread: then QEMU hangs until the peer hangs up. So
    this one hangs up when nothing comes any more; a program behind ``exec:`` would not.
    """

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, ConnectionError):
            while True:
                async with asyncio.timeout(SILENCE):
                    if not await reader.read(1 << 16):
                        break
        writer.close()

    server = await asyncio.start_unix_server(swallow, path)
    try:
        yield f"unix:{path}"
    finally:
        server.close()


async def look(behind: Client) -> set[str]:
    """Return what the second monitor sees: no command is under way, so only a migration or a device may end meanwhile.

    So where all three questions say yes, all three were true together when the first was answered.
    """
    status = (await behind.ask("query-migrate"))["return"].get("status", "none")
    on = {c["capability"] for c in (await behind.ask("query-migrate-capabilities"))["return"] if c["state"]}
    plugged = (await behind.ask("qom-list", {"path": "/machine/peripheral"}))["return"]
    seen = {"over"} if status in OVER else {"migrating"} if status != "none" else set()
    seen |= {"lit"} if on & DANGEROUS else set()
    seen |= {"plugged"} if any(e["type"] == "child<vfio-user-pci>" for e in plugged) else set()
    if {"migrating", "lit", "plugged"} <= seen:
        seen.add("forbidden")
    if {"over", "lit", "plugged"} <= seen:
        seen.add("leftover")
    return seen


async def play(folder: Path, policy: Policy, *, wanted: set[str], rounds: int = 0) -> Counter[str]:
    """Play rounds of three deeds at once, until all that is wanted was seen; return in how many each thing was seen."""
    chance = random.Random(1)  # noqa: S311 -- the same deeds each time
    seen: Counter[str] = Counter()
    for number in range(MOST_QEMUS):
        place = folder / str(number)
        place.mkdir()
        if await play_at_one_qemu(place, policy, chance, seen, wanted=wanted, rounds=rounds):
            break
    return seen


async def play_at_one_qemu(
    folder: Path, policy: Policy, chance: random.Random, seen: Counter[str], *, wanted: set[str], rounds: int
) -> bool:
    """Play on, and return whether it came to an end: not where QEMU has aborted by itself."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(VfioUserServer(folder / "vu.sock"))
        away = await stack.enter_async_context(sink(folder / "away.sock"))
        qemu = await stack.enter_async_context(Qemu(vfio_qemu(), folder, SLOT, monitors=2, machine="q35"))
        await stack.enter_async_context(guarding(qemu.monitors[0], policy=policy, watch=0.01))
        behind = await stack.enter_async_context(connected(qemu.monitors[1]))
        clients = [await stack.enter_async_context(connected(folder / "guard.sock")) for _ in range(3)]
        await behind.ask("migrate-set-parameters", {"max-bandwidth": CRAWL})
        possible = deeds({**vfio_user_device(server.path, id="gpu0"), "bus": "rp0"}, away)
        for _ in range(MOST_ROUNDS):
            if seen["rounds"] >= rounds and wanted <= (+seen).keys():
                break
            seen["rounds"] += 1
            asked = [c.ask(*chance.choice(possible), id=i) for i, c in enumerate(clients)]
            replies = await asyncio.gather(*asked, return_exceptions=True)
            try:
                now = await look(behind)
            except ConnectionError:
                if ABORTS in qemu.stderr.read_text():
                    return False
                raise
            assert [reply["id"] for reply in replies if not isinstance(reply, BaseException)] == [0, 1, 2]
            seen.update(now)
            seen["refused"] += sum("qmpguard: rule" in str(reply) for reply in replies)
            if "forbidden" in now:
                break  # from here on QEMU may hang
    return True


async def test_whatever_the_order_no_forbidden_migration_ever_runs(tmp_path: Path) -> None:
    wanted = {"migrating", "over", "lit", "plugged", "refused"}
    seen = await play(tmp_path, Policy(), wanted=wanted, rounds=ROUNDS)
    assert seen["forbidden"] == 0
    assert wanted <= (+seen).keys(), "too tame a game to show anything"


async def test_without_refusals_the_same_game_reaches_it(tmp_path: Path) -> None:
    assert (await play(tmp_path, Policy(mode=Mode.WARN), wanted={"forbidden"}))["forbidden"] == 1
