"""The rules. Each is a function that returns a problem of a machine, or None.

A new rule is one function and its line in `RULES`. A rule about a type of devices and a capability is a row in
`builtin_combinations`. A rule's docstring is its documentation for users; its first line is in every table.
"""

from __future__ import annotations

from typing import TypeAlias

from qmpguard.policy.built_in_combinations import BUILT_IN
from qmpguard.policy.crash_rule import qemu_crash
from qmpguard.policy.device import Device, is_vfio
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import BACKGROUND_SNAPSHOT, DANGEROUS, SNAPSHOTS, Start
from qmpguard.policy.mode import Mode
from qmpguard.policy.monitor_rules import monitor_object, new_monitor, own_socket
from qmpguard.policy.policy import Policy, Rule, as_rule
from qmpguard.policy.problem import Problem
from qmpguard.policy.snapshots import KEEPS_RAM, ignore_shared, snapshot_cpr, snapshot_multifd
from qmpguard.wire.client_messages import COMMAND_NOT_FOUND

#: the texts of QEMU's blocker for several VFIO devices (hw/vfio/common.c; the second is that of 8.0 and 8.1)
VFIO_WIDE_BLOCKERS = (
    "Multiple VFIO devices migration is supported only if all of them support P2P migration",
    "Migration is currently not supported with multiple VFIO devices",
)
#: run states from which QEMU can pause for a background snapshot (softmmu/runstate.c: runstate_transitions_def)
CAN_SNAPSHOT = frozenset({"running", "paused", "suspended"})


def vfio_blocked(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse to plug a VFIO device with migration forced on where QEMU's blocker for all VFIO devices stands.

    The device would be plugged in as migratable into a VM that cannot migrate: `enable-migration=on` while
    `query-migrate` lists a blocker for several VFIO devices. For any other blocker the rule only warns.
    """
    forced = [device for device in machine.added if device.migration_forced]
    if not forced or not machine.migration.blockers:
        return None
    blockers = machine.migration.blockers
    wide = next((b for b in blockers if any(text in b for text in VFIO_WIDE_BLOCKERS)), None)
    fix = "plug it with enable-migration=auto, or remove what blocks migration"
    return Problem(wide or blockers[0], fix, _labels(forced), advisory=wide is None)


def snapshot_runstate(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse a background snapshot in a run state from which QEMU cannot pause: it would abort, VFIO or not.

    QEMU 7.2 to 11.1 abort in `prelaunch`, which is before the first `cont`; some also in `io-error` and `shutdown`.
    The command passes in `running`, `paused` and `suspended`.
    """
    if machine.starting is not Start.OUTGOING or not machine.has(BACKGROUND_SNAPSHOT):
        return None
    if machine.runstate in CAN_SNAPSHOT:
        return None
    return Problem(
        f"Background snapshot is not possible in run state '{machine.runstate}': QEMU would abort",
        "continue the VM with cont first, or turn background-snapshot off",
        capability=BACKGROUND_SNAPSHOT,
    )


def vfio_state_lost(machine: Machine, policy: Policy) -> Problem | None:
    """Warn of a migration or a snapshot that loses a VFIO device's state without a word.

    QEMU neither migrates nor refuses a `vfio-user-pci` (up to 11.1), nor a device whose `failover_pair_id` no standby
    device has as its id. A snapshot to disk loses the state too: after `snapshot-load` the device is as after a reset.
    The state of a `vfio-pci` survives `cpr-transfer` and `cpr-exec`, that of a `vfio-user-pci` no mode of CPR.
    """
    if machine.starting in (None, Start.POSTCOPY) or not machine.devices:
        return None
    machine.properties_of((d for d in machine.devices if d.driver != "vfio-user-pci"), "failover_pair_id")
    lost = [device for device in machine.devices if _loses_state(machine, device)]
    if not lost:
        return None
    is_snapshot = machine.starting in SNAPSHOTS
    what, moved, where = (
        ("snapshot", "saved", "afterwards") if is_snapshot else ("migration", "migrated", "on the destination")
    )
    return Problem(
        f"{machine.name_of(lost[0])}: the state of this VFIO device is not {moved} and will be lost",
        f"unplug the device before the {what} and plug it in again {where}",
        _labels(lost),
    )


def vfio_property(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse `qom-set` of what decides whether QEMU checks a VFIO device.

    The properties are `realized`, `failover_pair_id`, `enable-migration` and `x-enable-migration`. In profile strict
    they are refused for every object, not only for VFIO devices.
    """
    change = machine.change
    if change is None:
        return None
    if not policy.strict and not is_vfio(machine.changed_type, policy.extra_types):
        return None
    return Problem(
        f"Property '{change.property}' of '{change.path}' decides whether the device can migrate",
        "unplug the device and plug it in again as it should be",
        (change.path,),
    )


def hidden_primary(machine: Machine, policy: Policy) -> Problem | None:
    """Warn of a dangerous capability while a failover standby may hide a VFIO device that nothing shows.

    QEMU hides the primary of a failover pair from QOM until the guest has negotiated failover. A primary from the
    command line, or from before the guard's start, cannot be found. A primary that was plugged in through the guard is
    remembered, and judged by the rules `vfio-postcopy` and `vfio-background-snapshot`.
    """
    if machine.starting in SNAPSHOTS:
        return None
    on = next((c for c in sorted(DANGEROUS) if machine.has(c)), None)
    if on is None or policy.allow_failover_primary or not machine.standbys:
        return None
    alone = sorted(machine.standbys.difference(machine.properties_of(machine.devices, "failover_pair_id")))
    if not alone:
        return None
    return Problem(
        f"{alone[0]}: this failover standby may hide a VFIO device that cannot take part in {on}",
        "turn the capability off, or remove failover=on",
        tuple(alone),
        on,
    )


def hmp_write(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse every line of HMP but `info` and those that another rule judges.

    `migrate`, `device_add`, `savevm` and `loadvm` are judged by their own rules, so they may pass in profile strict;
    `delvm`, which no other rule judges, does not. HMP can access parts of QEMU that QMP cannot. The lines for a running
    migration always pass: `migrate_cancel`, `migrate_pause`, `migrate_continue`, `migrate_recover`.
    """
    if machine.hmp_write is None:
        return None
    return Problem(f"HMP command '{machine.hmp_write}' is not allowed here", "use the QMP command for it")


def runs_program(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse what runs a program as QEMU's user: `exec:` URIs and channels, and `cpr-exec-command`.

    Also the scripts, helpers and commands of `netdev_add`. A program that runs as QEMU's user has all rights of QEMU.
    """
    if machine.program is None:
        return None
    return Problem(f"{machine.program} would run a program as QEMU's user", "use a socket, a file or a descriptor")


def unknown_command(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse a command that is absent from QEMU's schema, or a downstream one (`__...`).

    The effect of such a command is unknown. The schema comes from QEMU itself (`query-qmp-schema`). The error for an
    absent command is QEMU's own, with class `CommandNotFound`: tools use it to detect features.
    """
    command = machine.unlisted
    if command is None or passes_unjudged(command, machine.commands):
        return None
    fix = "use a command that QEMU documents"
    if command in machine.commands:
        return Problem(f"The command {command} is a downstream one", fix)
    return Problem(f"The command {command} has not been found", fix, error_class=COMMAND_NOT_FOUND)


def _loses_state(machine: Machine, device: Device) -> bool:
    if device.driver == "vfio-user-pci":
        return True
    if not any(machine.properties_of((device,), "failover_pair_id")) or machine.has_standby(device):
        return False
    return machine.starting in SNAPSHOTS or machine.parameter("mode") not in KEEPS_RAM


def _labels(devices: list[Device] | tuple[Device, ...]) -> tuple[str, ...]:
    return tuple(device.label for device in devices)


_ENFORCE, _WARN, _OFF = Mode.ENFORCE, Mode.WARN, Mode.OFF

RULES = (
    #    id                          looks at                   standard  strict
    *map(as_rule, BUILT_IN),
    Rule("vfio-blocked",             vfio_blocked,              _ENFORCE),
    Rule("snapshot-runstate",        snapshot_runstate,         _ENFORCE),
    Rule("snapshot-cpr",             snapshot_cpr,              _ENFORCE),
    Rule("snapshot-multifd",         snapshot_multifd,          _ENFORCE),
    Rule("ignore-shared",            ignore_shared,             _ENFORCE),
    Rule("vfio-state-lost",          vfio_state_lost,           _WARN,    _WARN),
    Rule("qemu-crash",               qemu_crash,                _ENFORCE),
    Rule("new-monitor",              new_monitor,               _ENFORCE),
    Rule("monitor-object",           monitor_object,            _ENFORCE),
    Rule("own-socket",               own_socket,                _OFF),
    Rule("vfio-property",            vfio_property,             _ENFORCE),
    Rule("hidden-primary",           hidden_primary,            _WARN),
    Rule("hmp-write",                hmp_write,                 _OFF),
    Rule("runs-program",             runs_program,              _OFF),
    Rule("unknown-command",          unknown_command,           _OFF),
)  # fmt: skip


def rules(policy: Policy) -> tuple[Rule, ...]:
    """Return every rule of a policy: the built-in ones, then those that the policy adds."""
    return (*RULES, *map(as_rule, policy.combinations), *policy.plugins)


def reserved_ids() -> frozenset[str]:
    """Return the ids that a rule of a configuration must not have."""
    return frozenset(rule.id for rule in RULES) | {UNVERIFIED, OBSERVER, "none"}


def passes_unjudged(command: str, commands: frozenset[str]) -> bool:
    """Say whether rule `unknown-command` lets a command pass; ``commands`` are those of QEMU's schema."""
    return command in commands and not command.startswith("__")


#: the id of the gate's own refusals, which judge no machine
UNVERIFIED = "unverified"
#: the id of refusals of observers (`observer`)
OBSERVER = "observer"


def unverified_mode(policy: Policy) -> Mode:
    """Return the mode for requests that could not be verified: enforce or warn, never off."""
    mode = Mode.weaker(policy.mode, policy.rules.get(UNVERIFIED, Mode.ENFORCE))
    return Mode.WARN if mode is Mode.OFF else mode


def modes(policy: Policy) -> tuple[tuple[str, Mode], ...]:
    """Return every rule's id with its effective mode under a policy."""
    return (*((rule.id, rule.mode(policy)) for rule in rules(policy)), (UNVERIFIED, unverified_mode(policy)))


Row: TypeAlias = tuple[str, str, str, str]


def table() -> list[Row]:
    """Return every rule as (id, mode in standard, mode in strict, summary), for every output."""
    return [*map(_row, RULES), (UNVERIFIED, "enforce", "enforce", _ON_UNVERIFIED.partition("\n")[0])]


def added(policy: Policy) -> tuple[Row, ...]:
    """Return the rules that a policy adds to the built-in ones, as rows."""
    return tuple(map(_row, rules(policy)[len(RULES) :]))


def _row(rule: Rule) -> Row:
    return rule.id, rule.standard.value, rule.strict.value, rule.summary


def documentation() -> dict[str, str]:
    """Return every rule's documentation for users, by its id, in the order of the table."""
    return {rule.id: rule.documentation for rule in RULES} | {UNVERIFIED: _ON_UNVERIFIED}


_ON_UNVERIFIED = """Refuse what cannot be read or verified: odd arguments, or a QEMU that does not answer.

An argument that no reader knows may be a capability in a newer QEMU; so may a migration parameter. While QEMU is busy,
a request waits as it would at QEMU, up to the survey timeout. This rule can warn but is never off."""
