"""One VM as the rules see it: the facts that were queried from QEMU, and the changes that an operation would make.

Reading a fact that was not queried yet raises `Unknown`, which names the fact. The survey then queries it and judges
again. So only facts that the rules need are queried, and an unknown fact never counts as absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from qmpguard.policy.device import Device
from qmpguard.policy.facts import Fact, Facts, Parameters, Unknown
from qmpguard.policy.migration import OVER, Migration, Start
from qmpguard.policy.netdevs import used_by

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qmpguard.policy.crashes import Crash
    from qmpguard.wire.json import Value

T = TypeVar("T")

#: the properties that are the address of a device on the host, and the types of VFIO devices that have none
ADDRESSES, WITHOUT_ADDRESS = frozenset({"host", "sysfsdev"}), frozenset({"vfio-user-pci"})


@dataclass(frozen=True, slots=True)
class Change:
    """A QOM property that is set."""

    path: str
    property: str


@dataclass(frozen=True, slots=True)
class Machine:
    """One VM at one moment, or after an operation: the facts, and the changes that the operation would make."""

    facts: Facts = field(default_factory=Facts)
    starting: Start | None = None
    setting: bool = False  # the operation sets capabilities or parameters
    added: tuple[Device, ...] = ()
    opened: tuple[Device, ...] = ()
    added_netdevs: tuple[Device, ...] = ()
    turned_on: frozenset[str] = frozenset()
    turned_off: frozenset[str] = frozenset()
    changed_parameters: tuple[tuple[str, Value], ...] = ()
    added_others: tuple[Device, ...] = ()
    to_another_host: bool = False
    change: Change | None = None
    new_monitor: str | None = None
    program: str | None = None
    hmp_write: str | None = None
    unlisted: str | None = None
    crash: Crash | None = None
    addresses: tuple[str, ...] = ()  # texts of the request that may name a socket
    numbered: str | None = None  # the argument that names a descriptor by its number
    turned_against_monitor: str | None = None  # the request that would turn QEMU against its own monitor
    monitor_change: str | None = None

    @classmethod
    def of(
        cls,
        *,
        capabilities: Iterable[str] = (),
        devices: Iterable[Device] = (),
        standbys: Iterable[str] = (),
        hidden: Iterable[Device] = (),
        runstate: str = "running",
        migration: str = "none",
        blockers: Iterable[str] = (),
        changed_type: str = "",
        commands: Iterable[str] = (),
        left_on: Iterable[str] = (),
        others: Iterable[Device] = (),
        parameters: Parameters | None = None,
        shared_memory: Iterable[str] = (),
        version: tuple[int, ...] | None = None,
        blocks: Iterable[Device] = (),
        sockets: Iterable[str] = (),
        netdevs: Iterable[Device] = (),
        nics: Iterable[tuple[str, str]] = (),
        negotiated: Iterable[str] | None = None,
    ) -> Machine:
        """Return a machine with every fact known. ``negotiated``: None: the guest has done so for all ``standbys``."""
        vfio = tuple(devices)
        status = Migration(migration, tuple(blockers))
        on = frozenset(capabilities)
        pairs = frozenset(standbys)
        known = pairs, runstate, status, changed_type, frozenset(commands), tuple(hidden)
        known_pairs = pairs if negotiated is None else frozenset(negotiated)
        facts = Facts(on, vfio, tuple(others), vfio, *known, known_pairs, frozenset(left_on), version=version)
        facts = replace(facts, blocks=tuple(blocks))
        facts = replace(facts, netdevs=tuple(netdevs), nics=tuple(nics))
        return cls(
            replace(facts, parameters=parameters or {}, shared_memory=tuple(shared_memory), sockets=frozenset(sockets))
        )

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities that are on."""
        on = _known(self.facts.capabilities, Fact.CAPABILITIES)
        return (on | self.turned_on) - self.turned_off

    def has(self, capability: str) -> bool:
        """Say whether a capability is on. The fact is needed only if the operation does not set it."""
        if capability in self.turned_on:
            return True
        return capability not in self.turned_off and capability in self.capabilities

    @property
    def devices(self) -> tuple[Device, ...]:
        """The VFIO devices, without details: by QOM path, then hidden ones, then new ones."""
        return _known(self.facts.devices, Fact.DEVICES) + self._hidden + self.added

    @property
    def detailed(self) -> tuple[Device, ...]:
        """The same devices with their host addresses and failover partners."""
        _known(self.facts.devices, Fact.DEVICES)
        return _known(self.facts.details, Fact.DETAILS) + self._hidden + self.added

    def properties_of(self, devices: Iterable[Device], name: str) -> tuple[str | None, ...]:
        """Return a property of several devices: ``host``, ``sysfsdev`` or ``failover_pair_id``.

        It is queried for those of the devices that are VFIO devices in QOM. New and hidden ones have it themselves.
        """
        values, lacking = [], []
        for device in devices:
            try:
                values.append(self._property(device, name))
            except KeyError:
                lacking.append((device.path, name))
        if lacking:
            raise Unknown(properties=tuple(lacking))
        return tuple(values)

    def _property(self, device: Device, name: str) -> str | None:
        """Return a property of a device. Raises `KeyError` where it was not queried yet."""
        facts = self.facts
        if facts.details is not None and device in (facts.devices or ()):
            device = next((each for each in facts.details if each.path == device.path), device)
        elif device in (facts.devices or ()):
            has_none = name in ADDRESSES and device.driver in WITHOUT_ADDRESS
            return None if has_none else facts.properties[device.path, name]
        value: str | None = getattr(device, name)
        return value

    def name_of(self, device: Device) -> str:
        """Return the name that QEMU uses for a device in its errors. The host's address is queried where it decides."""
        (sysfsdev,) = self.properties_of((device,), "sysfsdev")
        (host,) = (None,) if sysfsdev else self.properties_of((device,), "host")
        return replace(device, sysfsdev=sysfsdev, host=host).name

    @property
    def others(self) -> tuple[Device, ...]:
        """The devices that are not VFIO devices, without details: by QOM path, then new ones."""
        return _known(self.facts.others, Fact.DEVICES) + self.added_others

    @property
    def blocks(self) -> tuple[Device, ...]:
        """The block nodes that are VFIO devices; new ones last."""
        return _known(self.facts.blocks, Fact.BLOCKS) + self.opened

    @property
    def netdevs(self) -> tuple[Device, ...]:
        """The remembered network back ends that access guest RAM, named with the devices that use them; new ones last.

        QEMU is asked for their devices only where there is a back end.
        """
        if not self.facts.netdevs:
            return self.added_netdevs
        _known(self.facts.others, Fact.DEVICES)
        users = _known(self.facts.nics, Fact.NICS)
        return tuple(used_by(back_end, users) for back_end in self.facts.netdevs) + self.added_netdevs

    @property
    def sockets(self) -> frozenset[str]:
        """The names of the listening sockets of QEMU and of the guard."""
        return _known(self.facts.sockets, Fact.SOCKETS) | self.facts.own

    @property
    def _hidden(self) -> tuple[Device, ...]:
        """The remembered hidden primaries, without those that show themselves by now.

        The standbys must be known first: QEMU may have removed them. An id alone does not tell: QEMU gives the id of a
        hidden primary to another device, and goes on hiding the primary.
        """
        if not self.facts.hidden:
            return ()
        _known(self.facts.standbys, Fact.STANDBYS)
        ids = {device.id for device in self.facts.hidden}
        namesakes = [device for device in _known(self.facts.devices, Fact.DEVICES) if device.id in ids]
        pairs = self.properties_of(namesakes, "failover_pair_id")
        shown = {(device.id, pair) for device, pair in zip(namesakes, pairs, strict=True)}
        return tuple(device for device in self.facts.hidden if (device.id, device.failover_pair_id) not in shown)

    @property
    def standbys(self) -> frozenset[str]:
        """The ids of virtio-net devices with failover on: standbys, with or without a present primary."""
        _known(self.facts.devices, Fact.DEVICES)
        return _known(self.facts.standbys, Fact.STANDBYS)

    def has_standby(self, device: Device) -> bool:
        """Say whether a device is the primary of a failover pair whose standby is present."""
        (pair,) = self.properties_of((device,), "failover_pair_id")
        return bool(pair) and pair in self.standbys

    def is_sole_primary(self, device: Device) -> bool:
        """Say whether no other device has the standby of a device: QEMU unplugs one primary for a migration."""
        pairs = self.properties_of(self.devices, "failover_pair_id")
        (own,) = self.properties_of((device,), "failover_pair_id")
        return pairs.count(own) == 1

    @property
    def runstate(self) -> str:
        """QEMU's run state: ``running``, ``inmigrate``, ..."""
        return _known(self.facts.runstate, Fact.RUNSTATE)

    @property
    def migration(self) -> Migration:
        """The last or present outgoing migration, and the blockers of the next."""
        return _known(self.facts.migration, Fact.MIGRATION)

    @property
    def changed_type(self) -> str:
        """The QOM type of the object whose property the operation sets; empty where there is no such object."""
        return _known(self.facts.type, Fact.TYPE)

    @property
    def commands(self) -> frozenset[str]:
        """Every command of QEMU's schema."""
        return _known(self.facts.commands, Fact.COMMANDS)

    def parameter(self, name: str) -> Value:
        """Return a migration parameter; None where this QEMU has no such parameter, or has it unset."""
        changed = dict(self.changed_parameters)
        return changed[name] if name in changed else _known(self.facts.parameters, Fact.PARAMETERS).get(name)

    @property
    def shared_memory(self) -> tuple[str, ...]:
        """The ids of memory back ends with share=on."""
        return _known(self.facts.shared_memory, Fact.SHARED)

    def is_older_than(self, version: tuple[int, ...], *, unknown: bool) -> bool:
        """Say whether QEMU's version is below another one; ``unknown`` is the answer where it is not known."""
        return unknown if self.facts.version is None else self.facts.version < version

    def is_stale(self, capability: str) -> bool:
        """Say whether a capability is stale: on since the last migration, which is finished."""
        if capability not in self.facts.left_on:
            return False
        return self.runstate != "inmigrate" and self.migration.status in OVER

    def with_capabilities(self, states: Iterable[tuple[str, bool]]) -> Machine:
        """Return the machine after a list of capabilities. The last entry of a name wins, as in QEMU."""
        folded = dict(states)
        on = frozenset(name for name, state in folded.items() if state)
        return replace(
            self,
            turned_on=(self.turned_on - folded.keys()) | on,
            turned_off=(self.turned_off - folded.keys()) | (folded.keys() - on),
        )

    def with_parameters(self, values: Iterable[tuple[str, Value]]) -> Machine:
        """Return the machine after migration parameters were set."""
        return replace(self, changed_parameters=(*self.changed_parameters, *values))

    def with_device(self, device: Device) -> Machine:
        """Return the machine with another VFIO device."""
        return replace(self, added=(*self.added, device))

    def with_other(self, device: Device) -> Machine:
        """Return the machine with another device that is not a VFIO device."""
        return replace(self, added_others=(*self.added_others, device))

    def with_netdev(self, back_end: Device) -> Machine:
        """Return the machine with another network back end that accesses guest RAM."""
        return replace(self, added_netdevs=(*self.added_netdevs, back_end))

    def with_block(self, node: Device) -> Machine:
        """Return the machine with another block node that is a VFIO device."""
        return replace(self, opened=(*self.opened, node))


def _known(value: T | None, fact: Fact) -> T:
    if value is None:
        raise Unknown(fact)
    return value
