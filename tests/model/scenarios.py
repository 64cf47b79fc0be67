"""What the two clients do in each exploration, and what happens beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.mode import Mode
from qmpguard.policy.policy import Policy
from tests.model.client import Step
from tests.model.world import Scenario

if TYPE_CHECKING:
    from typing import Any

WARNS = Policy(mode=Mode.WARN)


def capability(name: str) -> Step:
    return Step("migrate-set-capabilities", {"capabilities": [{"capability": name, "state": True}]})


def getfd(name: str) -> Step:
    return Step("getfd", {"fdname": name}, fd=True)


def device(identity: str) -> dict[str, Any]:
    return {"driver": "vfio-pci", "id": identity}


PLUG = Step("device_add", device("gpu0"))
POSTCOPY, SNAPSHOT = capability("postcopy-ram"), capability("background-snapshot")
MIGRATE = Step("migrate", {"uri": "exec:cat"})
YANK = Step("query-yank", oob=True)
QUERY = Step("query-name")

SCENARIOS = (
    Scenario("hot-plug against postcopy", (PLUG,), (POSTCOPY, MIGRATE), {"link breaks": 1, "migration fails": 1}),
    Scenario("hot-plug against a background snapshot", (PLUG,), (SNAPSHOT, MIGRATE), {"B leaves": 1, "look": 1}),
    Scenario("an override", (PLUG, MIGRATE), (POSTCOPY,), {"override begins": 1, "override ends": 1}),
    Scenario("a reload that refuses", (PLUG, MIGRATE), (POSTCOPY,), {"reload": 1, "look": 1}, policy=WARNS),
    Scenario("a reload that warns", (PLUG,), (POSTCOPY, MIGRATE), {"reload": 1, "timeout": 1}, reloaded=WARNS),
    Scenario("descriptors", (getfd("x"), getfd("x")), (getfd("x"), QUERY), {"link breaks": 1, "A leaves": 1}),
    Scenario("replies in their order", (QUERY, PLUG, YANK, QUERY), (YANK, POSTCOPY, QUERY), {"timeout": 1}),
)

#: all at once: two clients, a hot-plug, a reconnect, an override and a reload
EVERYTHING = Scenario(
    "everything",
    (QUERY, PLUG, getfd("x")),
    (POSTCOPY, YANK, MIGRATE),
    {"link breaks": 1, "override begins": 1, "override ends": 1, "reload": 1, "migration completes": 1},
)
