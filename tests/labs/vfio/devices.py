"""Mediated devices of the sample driver mtty, made anew for each case: one used twice can take the kernel down."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from tests.labs.vfio.host import OOPS, Lab, LabFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_TYPE = "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/create"


class Kind(Enum):
    """What a device can do; each is a switch of the lab's mtty that is not in its usual place."""

    MIGRATABLE = ""
    FIXED = "lab_migratable=N"  #: it cannot migrate
    NO_P2P = "lab_p2p=N"  #: it can migrate alone only
    CARD = "lab_network=Y"  #: it is an Ethernet card by its class, so it can be a failover primary

    @property
    def switches(self) -> str:
        """Return the lines of a script that set every switch."""
        values = {"lab_p2p": "Y", "lab_migratable": "Y", "lab_network": "N"}
        name, _, value = self.value.partition("=")
        values |= {name: value} if name else {}
        return "\n".join(f"echo {value} > /sys/module/mtty/parameters/{name}" for name, value in values.items())


@dataclass(frozen=True, slots=True)
class Mediated:
    """A mediated device of the lab."""

    uuid: str

    @property
    def path(self) -> str:
        """Return what `vfio-pci` takes as sysfsdev."""
        return f"/sys/bus/mdev/devices/{self.uuid}"

    def arguments(self, id_: str | None = "gpu0", **more: Any) -> dict[str, Any]:
        """Return the arguments of device_add; as JSON they fit -device."""
        on = {"enable-migration": "on"}  # mtty has no dirty log: "auto" would leave it blocked
        return {"driver": "vfio-pci", "sysfsdev": self.path, **on, **({"id": id_} if id_ else {}), **more}


@asynccontextmanager
async def mediated(lab: Lab, *kinds: Kind) -> AsyncGenerator[list[Mediated]]:
    """Make devices; at the end they are removed, and the guest's kernel must not have complained."""
    made = [Mediated(f"{lab.fresh():08x}-0000-4000-8000-000000000000") for _ in kinds]
    pairs = zip(kinds, made, strict=True)
    await lab.run("\n".join(f"{kind.switches}\necho {one.uuid} > {_TYPE}" for kind, one in pairs))
    try:
        yield made
    finally:
        said = await lab.run("\n".join([*(f"echo 1 > {one.path}/remove" for one in made), "dmesg -c"]))
        sound(said)


def sound(said: str) -> None:
    """Raise LabFailed when the guest's kernel tells of a driver that has failed: nothing after that can be believed."""
    if any(word in said for word in OOPS):
        raise LabFailed(f"the guest's kernel: {said[-3000:]}")
