"""Whatever clients ask for, in whatever order: no migration ever runs with a VFIO device and a dangerous capability.

A model of QEMU without any check of its own, and in front of it the judgment. Chance plays the clients, the guest and
the course of time, thousands of times, the same each time; after every move it is looked for what must never be, and
at every refusal whether there was need for it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.policy.device import Device
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import DANGEROUS, OVER, Migration
from qmpguard.policy.mode import Profile
from qmpguard.policy.policy import Policy
from qmpguard.policy.readers import read
from qmpguard.policy.reading.result import Harmless, Unreadable
from qmpguard.policy.stale_capabilities import StaleCapabilities
from tests.support.scenes import Request, hmp, plug, qmp

if TYPE_CHECKING:
    from collections.abc import Callable

GAMES, MOVES = 2000, 15
NAMES = [*sorted(DANGEROUS), "events"]
DRIVERS = ["vfio-pci", "vfio-user-pci", "e1000e"]
RUNNING = ["active", "postcopy-active", "postcopy-paused", "device", "cancelling"]


class Vm:
    """A QEMU without any check, behind the guard. ``said`` is what was asked for, for who has to understand it."""

    def __init__(self, seed: int, policy: Policy, *, guarded: bool = True) -> None:
        self.chance = random.Random(seed)  # noqa: S311 -- the same games each time
        self.policy = policy
        self.guarded = guarded
        self.on: frozenset[str] = frozenset()
        self.devices: dict[str, Device] = {}
        self.nodes: dict[str, Device] = {}  # block nodes that are VFIO devices
        self.hidden: dict[str, Device] = {}  # what QEMU keeps out of sight, and the guard remembers
        self.status = "none"
        self.standby = self.chance.random() < 0.3
        self.incoming = self.chance.random() < 0.3  # it waits for a migration
        self.left = StaleCapabilities()
        self.said: list[str] = [f"standby={self.standby} incoming={self.incoming}"]

    @property
    def under_way(self) -> bool:
        return self.status not in OVER | {"none"}

    @property
    def harms(self) -> bool:
        """Whether a device is there that a migration with what is on would harm."""
        there = [*self.nodes.values(), *self.hidden.values(), *self.devices.values()]
        vfio = [device for device in there if "vfio" in device.driver or device.driver == "nvme"]
        return bool(self.on & DANGEROUS) and any(not self.survives(device) for device in vfio)

    def survives(self, device: Device) -> bool:
        """Whether it is the primary of a matched pair, which profile standard lets through postcopy."""
        pair = self.standby and device.failover_pair_id == "net0" and device.driver == "vfio-pci"
        hides = device in self.hidden.values() and not self.incoming
        return pair and not hides and not self.policy.strict and "background-snapshot" not in self.on

    @property
    def has_vfio(self) -> bool:
        return bool(self.hidden or self.nodes) or any("vfio" in device.driver for device in self.devices.values())

    def seen(self) -> Machine:
        """What the guard's survey sees."""
        machine = Machine.of(
            capabilities=self.on,
            devices=[d for d in self.devices.values() if "vfio" in d.driver],
            hidden=self.hidden.values(),
            standbys=["net0"] if self.standby else [],
            runstate="inmigrate" if self.incoming else "running",
            left_on=self.left.left_on,
            blocks=self.nodes.values(),
        )
        facts = replace(machine.facts, migration=Migration(self.status))
        self.left.saw(facts)
        return replace(machine, facts=replace(facts, left_on=self.left.left_on))

    def passes(self, request: Request) -> bool:
        reading = read(request["execute"], request.get("arguments", {}), self.policy)
        assert not isinstance(reading, Unreadable)
        refused = False
        if self.guarded and reading is not None and not isinstance(reading, Harmless):
            refused = judge(reading, self.seen(), self.policy).refusal is not None
        self.said.append(f"{'refused' if refused else 'passed'}: {request}")
        assert not refused or self.would_combine(request), self.said
        return not refused

    def would_combine(self, request: Request) -> bool:
        """Whether both halves are there after a request, or in strict might be."""
        lit = self.on | {name for name in DANGEROUS if name in str(request)}
        vfio = (
            self.has_vfio or "vfio" in str(request) or "nvme" in str(request) or (self.policy.strict and self.standby)
        )
        return bool(lit & DANGEROUS) and vfio

    # what clients do, in two spellings

    def set_capabilities(self) -> None:
        states = [(self.chance.choice(NAMES), self.chance.random() < 0.6) for _ in range(self.chance.randint(1, 3))]
        entries: list[Any] = [{"capability": name, "state": state} for name, state in states]
        if self.passes(qmp("migrate-set-capabilities", capabilities=entries)):
            self._set(states)

    def set_capability(self) -> None:
        name, state = self.chance.choice(NAMES), self.chance.random() < 0.6
        if self.passes(hmp(f'migrate_set_capability "{name}"{"on" if state else "off"}')):
            self._set([(name, state)])

    def _set(self, states: list[tuple[str, bool]]) -> None:
        for name, state in states if not self.under_way else ():  # QEMU refuses while a migration runs
            self.on = self.on | {name} if state else self.on - {name}
        self.left.switched_on(name for name, state in states if state)

    def add_device(self) -> None:
        driver, identity = self.chance.choice(DRIVERS), self.chance.choice("ab")
        pair = {"failover_pair_id": "net0"} if self.chance.random() < 0.3 else {}
        request = plug(driver, id=identity, **pair)
        if self.chance.random() < 0.5:
            request = hmp(",".join([f"device_add {driver},id={identity}", *(f"{k}={v}" for k, v in pair.items())]))
        if self.passes(request) and identity not in self.devices and not (self.under_way and not self.incoming):
            hides = bool(pair) and self.standby and "vfio" in driver
            (self.hidden if hides else self.devices)[identity] = Device(
                f"/machine/peripheral/{identity}", driver, identity, failover_pair_id=pair.get("failover_pair_id")
            )

    def open_node(self) -> None:
        name, driver = self.chance.choice("xy"), self.chance.choice(["nvme", "file"])
        request = qmp("blockdev-add", driver="raw", file={"driver": driver, "node-name": name})
        if self.chance.random() < 0.5:
            request = hmp(f"drive_add 0 if=none,file.driver={driver},file.node-name={name}")
        strict_line = self.policy.strict and request["execute"] == "human-monitor-command" and driver == "file"
        if not strict_line and self.passes(request) and driver == "nvme":  # QEMU opens nodes at any time
            self.nodes[name] = Device(f"block node '{name}'", driver, name)

    def close_node(self) -> None:
        name = self.chance.choice("xy")
        assert self.passes(qmp("blockdev-del", **{"node-name": name}))
        self.nodes.pop(name, None)

    def delete_device(self) -> None:
        identity = self.chance.choice("ab")
        assert self.passes(qmp("device_del", id=identity))
        self.devices.pop(identity, None)

    def migrate(self) -> None:
        command = "migrate-incoming" if self.incoming else "migrate"
        line = "migrate_incoming tcp:h:1" if self.incoming else "migrate -d tcp:h:1"
        if self.passes(self.chance.choice([hmp(line), qmp(command, uri="tcp:h:1")])) and not self.under_way:
            self.status = "setup"
            self.left.started()

    def cancel(self) -> None:
        assert self.passes(self.chance.choice([hmp("migrate_cancel"), qmp("migrate_cancel")]))
        if self.under_way and not self.incoming:
            self.status = "cancelled"

    # what happens by itself

    def go_on(self) -> None:
        if self.under_way:
            self.status = self.chance.choice([*RUNNING, *sorted(OVER)])
            self.incoming = self.incoming and self.status not in OVER
            self.said.append(self.status)

    def negotiate(self) -> None:
        """The guest takes failover up: what was hidden shows. A guest that is to come does so by its migration."""
        if self.incoming and not self.under_way:
            return
        self.devices |= self.hidden
        self.hidden = {}

    def play(self) -> bool:
        """Play one game; return whether it came to what must never be."""
        moves: list[Callable[[], None]] = [self.set_capabilities, self.set_capability, self.add_device, self.add_device]
        moves += [self.open_node, self.close_node]
        moves += [self.delete_device, self.migrate, self.migrate, self.cancel, self.go_on, self.go_on, self.negotiate]
        for _ in range(MOVES):
            self.chance.choice(moves)()
            if self.under_way and self.harms:
                return True
        return False


@pytest.mark.parametrize("profile", list(Profile))
def test_no_order_of_requests_leads_to_a_forbidden_migration(profile: Profile) -> None:
    for seed in range(GAMES):
        vm = Vm(seed, Policy(profile=profile))
        assert not vm.play(), vm.said


def test_without_the_judgment_many_do() -> None:
    assert sum(Vm(seed, Policy(), guarded=False).play() for seed in range(GAMES)) > GAMES // 10
