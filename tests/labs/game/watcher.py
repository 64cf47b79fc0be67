"""The watcher: what a second monitor, which no guard judges, sees of QEMU between two rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.migration import DANGEROUS, OVER
from tests.labs.game.moves import END, HIDE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from tests.labs.game.moves import Place
    from tests.support.guarding import Client
    from tests.support.scenes import Request

#: what must never be seen
FORBIDDEN = frozenset({"forbidden", "another monitor"})


#: the states that a migration may never leave where its target is gone
LASTING = frozenset({"status cancelling", "status postcopy-active", "status postcopy-paused"})


class Hidden:
    """Whether QEMU hides a failover primary, which nothing shows, as far as the replies tell for certain."""

    def __init__(self) -> None:
        self.is_certain = False

    def after(self, deeds: Sequence[tuple[Request, Any]]) -> None:
        """Take the requests of a round with their replies; they may have been executed in any order."""
        effects = {request == HIDE for request, reply in deeds if request in (END, HIDE) and _may_be_done(reply)}
        unsure = any(reply is None for request, reply in deeds if request in (END, HIDE))
        if effects:
            self.is_certain = effects == {True} and not unsure


def _may_be_done(reply: Any) -> bool:
    return reply is None or "return" in reply


async def look(behind: Client, place: Place, *, hidden: bool) -> set[str]:
    """Return what is seen: no command is under way, so only a migration or a device may end meanwhile.

    So where all three questions say yes, all three were true together when the first was answered.
    """
    status = (await behind.ask("query-migrate"))["return"].get("status", "none")
    on = {c["capability"] for c in (await behind.ask("query-migrate-capabilities"))["return"] if c["state"]}
    plugged = (await behind.ask("qom-list", {"path": "/machine/peripheral"}))["return"]
    objects = (await behind.ask("qom-list", {"path": "/objects"}))["return"]
    nodes = (await behind.ask("query-named-block-nodes", {"flat": True}))["return"]
    vfio = any("vfio" in entry["type"] for entry in plugged) or any(node["drv"] == "nvme" for node in nodes)
    seen = {"over"} if status in OVER else {"migrating"} if status != "none" else set()
    seen.add(f"status {status}")
    seen |= {"lit"} if on & DANGEROUS else set()
    seen |= {"plugged"} if vfio else set()
    seen |= {"hidden"} if hidden else set()
    if {"migrating", "lit"} <= seen and (vfio or hidden):
        seen.add("forbidden")
    if place.way.exists() or any(entry["name"] in ("m0", "m1") for entry in objects):
        seen.add("another monitor")
    return seen
