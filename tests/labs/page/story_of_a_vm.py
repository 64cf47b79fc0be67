"""The live page in a real browser, before a real QEMU with a real VFIO device. Run by `make page-test`.

With QMPGUARD_PICTURES=DIR it also takes the pictures of the documentation (`make pictures`).
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qemu.qmp import ExecuteError, QMPClient

from qmpguard.demo.lab import vfio_qemu
from qmpguard.demo.qemu import Qemu, vfio_user_device
from qmpguard.demo.vfio_user import VfioUserServer
from qmpguard.policy.verdict import Verdict
from qmpguard.record import Decision, Peer
from tests.labs.page.chromium import Page, browsing
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import capabilities, guarding, qmp_client
from tests.support.visiting import TOKEN, AdminClient, free_port, visiting_by_tcp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from qmpguard.daemon.guard import GuardedVm

PICTURES = Path(os.environ["QMPGUARD_PICTURES"]) if os.environ.get("QMPGUARD_PICTURES") else None
POSTCOPY = capabilities(postcopy_ram=True)
WIDE, PHONE = (1280, 860), (390, 844)


@dataclass
class Scene:
    """A page that looks at a guarded VM, and who talks to the VM."""

    page: Page
    visitor: AdminClient
    folder: Path
    guard: GuardedVm
    arguments: list[str]

    @asynccontextmanager
    async def qemu(self) -> AsyncGenerator[QMPClient]:
        """Run QEMU for a while, with a client through the guard."""
        async with Qemu(vfio_qemu(), self.folder, self.arguments, machine="pc") as qemu:
            await self.guard.vm.connected.wait()
            async with qmp_client(self.folder / "guard.sock") as client:
                yield client
            qemu.process.kill()

    async def picture(self, name: str) -> None:
        """Take a picture for the documentation, if that is what we are here for."""
        if PICTURES:
            await asyncio.sleep(1.2)  # what moves has come to rest
            await self.page.picture(PICTURES / f"{name}.png", whole=False)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncGenerator[Scene]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(VfioUserServer(tmp_path / "vu.sock"))
        full = tmp_path / "memory"
        full.write_bytes(os.urandom(32 << 20))  # memory that takes a while to be sent
        arguments = ["-device", json.dumps(vfio_user_device(server.path, id="gpu0"))]
        arguments += ["-device", f"loader,file={full},addr=0x1000000,force-raw=on"]
        guard = await stack.enter_async_context(
            guarding(tmp_path / "qmp0.sock", tmp_path / "guard.sock", watch=30.0, up=False)
        )
        visitor = await stack.enter_async_context(visiting_by_tcp(tmp_path, guard))
        page = await stack.enter_async_context(browsing(tmp_path / "browser"))
        await page.size(*WIDE)
        yield Scene(page, visitor, tmp_path, guard, arguments)


async def refused(client: QMPClient, command: str, arguments: Any) -> None:
    with pytest.raises(ExecuteError):
        await client.execute(command, arguments)


@pytest.mark.qemu11
async def test_the_story_of_a_vm_is_told_as_it_happens(scene: Scene) -> None:
    page = scene.page
    async with scene.qemu() as client:
        await page.open(f"{scene.visitor.base}/#token={TOKEN}")
        await page.shows(".vm-head", "ready")
        await page.shows(".devices", "gpu0")
        await page.until("document.querySelector('[data-way=plain]').dataset.answer === 'warned'")
        await page.until("document.querySelector('[data-way=postcopy]').dataset.answer === 'no'")
        await page.shows("#line", "live")
        await scene.picture("idle")

        await refused(client, "migrate-set-capabilities", POSTCOPY)
        await page.shows("#log li:first-child", "refused")
        await page.shows("#log li:first-child", "vfio-postcopy")
        await page.shows("#log li:first-child", "turn it off with migrate-set-capabilities")
        await page.shows("#log li:first-child", "QEMU itself would let it happen")
        await page.until("document.querySelector('#said').textContent.includes('refused on test')")
        await scene.picture("refusal")

        await client.execute("migrate-set-parameters", {"max-bandwidth": 2_000_000})
        await client.execute("migrate-set-capabilities", capabilities(events=True))
        await client.execute("migrate", {"uri": "exec:cat >/dev/null"})
        await page.shows(".course [aria-current=step]", "active")
        first = await page.evaluate("document.querySelector('.course progress')?.value ?? 0")
        await page.until(f"document.querySelector('.course progress')?.value > {first} + 2000000")
        await scene.picture("migration")
        await client.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        await page.shows(".course [aria-current=step]", "completed")
        await page.until("(bar => bar.value === bar.max)(document.querySelector('.course progress'))")

    await page.shows(".vm-head", "no qemu")
    await page.shows("#log li:first-child", "QEMU is gone")
    await page.until("document.querySelector('[data-way=plain]').dataset.answer === 'unknown'")
    await scene.picture("gone")

    async with scene.qemu():
        await page.shows(".vm-head", "ready")
        await page.shows("#log li", "linked")
    assert page.errors == []


@pytest.mark.qemu11
async def test_it_fits_a_phone_and_the_dark(scene: Scene) -> None:
    page = scene.page
    async with scene.qemu() as client:
        await page.size(*PHONE, dark=True)
        await page.open(f"{scene.visitor.base}/#token={TOKEN}")
        await refused(client, "migrate-set-capabilities", POSTCOPY)
        await page.shows("#log li:first-child", "refused")
        await page.shows(".devices", "gpu0")
        assert await page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
        background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(20, 23, 26)"
        await scene.picture("phone")


async def test_the_bytes_of_vfio_devices_move(scene: Scene) -> None:
    """Of a QEMU that only says so: a device that really moves state needs real hardware, or a nested VM."""
    page = scene.page
    async with FakeQemu(scene.folder / "qmp0.sock") as qemu:
        qemu.devices["gpu0"] = "vfio-pci"
        qemu.migration = "active"
        await page.open(f"{scene.visitor.base}/#token={TOKEN}")
        for sent in (5_000_000, 70_000_000):
            qemu.progress = {"ram": {"transferred": 1, "total": 9, "remaining": 8}, "vfio": {"transferred": sent}}
            await page.until(f"document.querySelector('[data-vfio]').dataset.vfio == {sent}")
        await page.shows(".moved", "66.8 MiB")


async def test_a_guard_that_is_gone_is_told_and_found_again(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, browsing(tmp_path / "browser") as page:
        port = free_port()
        async with visiting_by_tcp(tmp_path, guard, port=port) as visitor:
            await page.open(f"{visitor.base}/#token={TOKEN}")
            await page.shows("#line", "live")
        await page.shows("#line", "the guard does not answer")
        async with visiting_by_tcp(tmp_path, guard, port=port):
            await page.shows("#line", "live")


async def test_it_is_used_with_the_keyboard_alone(scene: Scene) -> None:
    page = scene.page
    await page.open(f"{scene.visitor.base}/#token={TOKEN}")
    await page.shows(".vm-head", "no qemu")
    reached = set()
    for _ in range(8):
        await page.press("Tab")
        reached.add(await page.evaluate("document.activeElement.id || document.activeElement.tagName.toLowerCase()"))
    assert {"summary", "filter", "log"} <= reached


async def test_without_a_token_it_asks_for_one_and_shows_nothing(scene: Scene) -> None:
    page = scene.page
    await page.open(scene.visitor.base)
    await page.until("!document.querySelector('#door').hidden")
    assert await page.evaluate("document.querySelector('#main').hidden")
    await page.evaluate(
        f"document.querySelector('#token').value = '{TOKEN}'; document.querySelector('#door button').click()"
    )
    await page.shows(".vm-head", "test")
    assert await page.evaluate("document.querySelector('#door').hidden")


async def test_what_is_not_named_has_a_name_for_a_screen_reader(scene: Scene) -> None:
    page = scene.page
    await page.open(f"{scene.visitor.base}/#token={TOKEN}")
    await page.shows(".vm-head", "no qemu")
    tree = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]}
    for role, name in (("main", ""), ("article", "test"), ("region", "What happened"), ("combobox", "Show")):
        assert (role, name) in named, sorted(named)
    assert "log" in {role for role, _ in named}
    nameless = [role for role, name in named if role in ("button", "link", "textbox", "combobox", "table") and not name]
    assert nameless in ([], ["table"] * len(nameless))


def decided(guard: GuardedVm, count: int = 1) -> str:
    """Put decisions on record, and return the last one's reference."""
    journal, ref = guard.vm.journal, ""
    for _ in range(count):
        ref = journal.next_ref
        journal.add(time.time(), Decision(ref, Peer(1, 22, 33, 44), "migrate", Verdict(), "11.1"))
    return ref


async def test_past_entries_keep_the_names_of_their_vms(tmp_path: Path) -> None:
    async with (
        guarding(tmp_path / "q1", tmp_path / "g1", up=False) as one,
        guarding(tmp_path / "q2", tmp_path / "g2", up=False) as two,
        browsing(tmp_path / "browser") as page,
    ):
        one.vm.name = one.vm.journal.vm = "first"
        two.vm.name = two.vm.journal.vm = "second"
        two.vm.journal.run = one.vm.journal.run  # as in one process
        decided(one)
        decided(two)
        async with visiting_by_tcp(tmp_path, one, two) as visitor:
            for _ in range(2):
                await page.open(f"{visitor.base}/#token={TOKEN}")
                await page.shows("#log li:first-child header", "second: migrate")
                await page.shows("#log li:last-child header", "first: migrate")
                await page.call("Page.reload")


async def test_a_wrong_token_says_so_and_may_be_tried_again(scene: Scene) -> None:
    page = scene.page
    await page.open(scene.visitor.base)
    await page.until("!document.querySelector('#door').hidden")
    assert await page.evaluate("document.querySelector('#wrong').hidden")
    for _ in range(2):
        await page.evaluate(
            "document.querySelector('#token').value = 'x'; document.querySelector('#door button').click()"
        )
        await page.until("!document.querySelector('#wrong').hidden")
    await page.evaluate(
        f"document.querySelector('#token').value = '{TOKEN}'; document.querySelector('#door button').click()"
    )
    await page.shows(".vm-head", "test")
    assert await page.evaluate("document.querySelector('#wrong').hidden")


async def test_a_guard_that_is_gone_was_heard_at_a_time_with_its_zone(tmp_path: Path) -> None:
    async with guarding(tmp_path / "q", up=False) as guard, browsing(tmp_path / "browser") as page:
        async with visiting_by_tcp(tmp_path, guard) as visitor:
            await page.open(f"{visitor.base}/#token={TOKEN}")
            await page.shows("#line", "live")
            zone = await page.evaluate("zone.textContent")
            await page.evaluate("window.past = Date.now(); 0")
        await page.until("/how it was at [0-9:]{8} \\S+/.test(document.querySelector('#line').textContent)")
        said = await page.evaluate("document.querySelector('#line').textContent")
        assert said.split()[-1] in zone
        await asyncio.sleep(2.5)  # it is tried again meanwhile; what is shown is as old as before
        assert await page.evaluate("document.querySelector('#line').textContent") == said


async def test_an_override_and_the_rules_are_told_as_text(scene: Scene) -> None:
    page = scene.page
    scene.guard.vm.overrides.begin("vfio-postcopy", 600.0, "moving day", Peer(1, 22, 33, 44))
    await page.open(f"{scene.visitor.base}/#token={TOKEN}")
    await page.shows(".notices", "Rule vfio-postcopy only warns until")
    await page.shows(".notices", "by process 22 of user 33: moving day")
    shown = await page.evaluate("document.querySelector('.notices').textContent")
    assert "override=" not in shown
    await page.until("document.querySelector('.rules td.wide code') !== null")
    assert "`" not in await page.evaluate("document.querySelector('.rules').textContent")


async def test_a_ref_is_copied_and_older_decisions_are_fetched(scene: Scene) -> None:
    page = scene.page
    ref = decided(scene.guard, 450)
    await page.open(f"{scene.visitor.base}/#token={TOKEN}")
    await page.until("document.querySelectorAll('#log li').length === 300")
    await page.shows("#log li:first-child .ref", ref)
    await page.evaluate("document.querySelector('#log li:first-child .ref').click()")
    await page.until("document.querySelector('#log li:first-child .ref').dataset.copied")
    for more in (400, 450):
        await page.evaluate("document.querySelector('#older').click()")
        await page.until(f"document.querySelectorAll('#log li').length === {more}")
    assert await page.evaluate("new Set([...document.querySelectorAll('#log li')].map(e => e.dataset.id)).size") == 450
    await page.until("document.querySelector('#older').disabled")
    new = decided(scene.guard)
    await page.shows("#log li:first-child .ref", new)
    assert page.errors == []
