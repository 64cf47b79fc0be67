"""The rules: what must never be. Each looks at a machine and says what is wrong with it, or nothing.

A new rule is one function and its line in `RULES`; where it is a kind of device that must not meet a capability, it
is a row in `combinations`. A rule's docstring is its documentation for users: the first line stands in every table.
"""

from __future__ import annotations

from typing import TypeAlias

from qmpguard.policy.built_in_combinations import BUILT_IN
from qmpguard.policy.crashes import qemu_crash
from qmpguard.policy.device import Device, is_vfio
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import BACKGROUND_SNAPSHOT, DANGEROUS, SNAPSHOTS, Start
from qmpguard.policy.policy import Mode, Policy, Rule
from qmpguard.policy.snapshots import KEEPS_RAM, ignore_shared, snapshot_cpr, snapshot_multifd
from qmpguard.policy.sockets import named
from qmpguard.policy.verdict import Problem
from qmpguard.wire.client_messages import COMMAND_NOT_FOUND

#: the texts of QEMU's blocker for all VFIO devices together (hw/vfio/common.c; the second is 8.0's and 8.1's)
VFIO_WIDE_BLOCKERS = (
    "Multiple VFIO devices migration is supported only if all of them support P2P migration",
    "Migration is currently not supported with multiple VFIO devices",
)
#: run states from which QEMU can pause for a background snapshot (softmmu/runstate.c: runstate_transitions_def)
CAN_SNAPSHOT = frozenset({"running", "paused", "suspended"})


def vfio_blocked(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse to plug a VFIO device with migration forced on where QEMU's blocker for all VFIO devices stands.

    The device would be plugged as migratable into a VM that cannot migrate: `enable-migration=on` while
    `query-migrate` has a blocker for several VFIO devices together. Any other blocker is only warned of.
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
    In `running`, `paused` and `suspended` it passes.
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

    QEMU neither migrates nor refuses a `vfio-user-pci` (up to 11.1), nor a device with a `failover_pair_id` that no
    standby device answers to. Snapshots to disk lose it likewise: after `snapshot-load` the device is as after a reset.
    A `vfio-pci` survives `cpr-transfer` and `cpr-exec`, a `vfio-user-pci` no mode of CPR.
    """
    if machine.starting in (None, Start.POSTCOPY) or not machine.devices:
        return None
    lost = [device for device in machine.detailed if _loses_state(machine, device)]
    if not lost:
        return None
    is_snapshot = machine.starting in SNAPSHOTS
    what, moved, where = (
        ("snapshot", "saved", "afterwards") if is_snapshot else ("migration", "migrated", "on the destination")
    )
    return Problem(
        f"{lost[0].name}: the state of this VFIO device is not {moved} and will be lost",
        f"unplug the device before the {what} and plug it in again {where}",
        _labels(lost),
    )


def new_monitor(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse what opens another monitor of this QEMU: it would be a way around the guard.

    `object-add` of `monitor-qmp` or `monitor-hmp`, `add_client` with any protocol but `vnc`, `spice` and
    `@dbus-display`, `netdev_add` of `user` whose `guestfwd` leads to `mon:` or to a character device with `mux`, and
    HMP's `gdbserver`, whose debugger can run monitor commands.
    """
    if machine.new_monitor is None:
        return None
    return Problem(f"{machine.new_monitor} would open a way around the guard", "connect to the guard's own socket")


def monitor_object(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse to change or remove a monitor: since QEMU 11.1 they are objects.

    `qom-set` of a monitor's property, and `object-del` of a monitor. With `close-action` set to `delete`, QEMU removes
    the guard's own monitor for good when its connection ends; other tools' monitors are theirs.
    """
    if machine.monitor_change is None or not machine.changed_type.startswith("monitor"):
        return None
    return Problem(f"{machine.monitor_change} would change a monitor of this QEMU", "leave the monitors as they are")


def own_socket(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse what would turn QEMU against its own monitor, or the guard's sockets.

    QEMU can connect to the socket at which it listens itself; when the guard's connection ends, that one is served
    next, and what a client feeds into it is executed unjudged. Refused are sockets of network devices, character
    devices, block nodes, displays, NBD and migration that have the name or the port of one at which QEMU or the guard
    listens; `yank` of a character device; and `object-add` of `qtest`, which reaches guest RAM.
    """
    if machine.deputy is not None:
        return Problem(f"{machine.deputy} would turn QEMU against its own monitor", "leave the monitors as they are")
    own = named(machine.addresses, machine.sockets) if machine.addresses else None
    if own is None:
        return None
    return Problem(f"QEMU or the guard listens at '{own}' itself", "use another address")


def vfio_property(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse `qom-set` of what decides whether QEMU checks a VFIO device.

    That is `realized`, `failover_pair_id`, `enable-migration` and `x-enable-migration`. In profile strict: of any
    object, not only of VFIO devices.
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

    QEMU keeps the primary of a failover pair out of sight until the guest has negotiated failover. One that came by the
    command line, or before the guard, cannot be seen; one that was plugged in through the guard is remembered, and
    rules `vfio-postcopy` and `vfio-background-snapshot` speak of it.
    """
    if machine.starting in SNAPSHOTS:
        return None
    on = next((c for c in sorted(DANGEROUS) if machine.has(c)), None)
    if on is None or policy.allow_failover_primary or not machine.standbys:
        return None
    paired = {device.failover_pair_id for device in machine.detailed} if machine.devices else set()
    alone = sorted(machine.standbys - paired)
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

    So `migrate`, `device_add`, `savevm` and `loadvm` pass also in profile strict where their own rules have nothing
    against them; `delvm`, which no rule looks at, does not. HMP reaches parts of QEMU that QMP does not, and its lines
    are made for people. Those that steer a running migration always pass: `migrate_cancel`, `migrate_pause`,
    `migrate_continue`, `migrate_recover`.
    """
    if machine.hmp_write is None:
        return None
    return Problem(f"HMP command '{machine.hmp_write}' is not allowed here", "use the QMP command for it")


def runs_program(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse what runs a program as QEMU's user: `exec:` URIs and channels, and `cpr-exec-command`.

    Also the scripts, helpers and commands of `netdev_add`. Whoever runs a program as QEMU's user can do what QEMU can.
    """
    if machine.program is None:
        return None
    return Problem(f"{machine.program} would run a program as QEMU's user", "use a socket, a file or a descriptor")


def unknown_command(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse a command that is absent from QEMU's schema, or a downstream one (`__...`).

    What such a command does nobody here can know. The schema is read from QEMU itself (`query-qmp-schema`). The error
    for a command that is absent is QEMU's own, with class `CommandNotFound`: tools detect features by it.
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
    if device.failover_pair_id in (None, "") or machine.has_standby(device):
        return False
    return machine.starting in SNAPSHOTS or machine.parameter("mode") not in KEEPS_RAM


def _labels(devices: list[Device] | tuple[Device, ...]) -> tuple[str, ...]:
    return tuple(device.label for device in devices)


_ENFORCE, _WARN, _OFF = Mode.ENFORCE, Mode.WARN, Mode.OFF

RULES = (
    #    id                          looks at                   standard  strict
    *(row.rule for row in BUILT_IN),
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
    """Return every rule that judges under a policy: the built-in ones, then those that the policy adds."""
    return (*RULES, *(row.rule for row in policy.combinations), *policy.plugins)


def reserved() -> frozenset[str]:
    """Return the ids that no rule of a configuration may have."""
    return frozenset(rule.id for rule in RULES) | {UNVERIFIED, OBSERVER, "none"}


def passes_unjudged(command: str, commands: frozenset[str]) -> bool:
    """Say whether rule `unknown-command` has nothing against a command, given those of QEMU's schema."""
    return command in commands and not command.startswith("__")


#: judged by the gate, not by a look at a machine
UNVERIFIED = "unverified"
#: what an observer's refusal is called (`observer`)
OBSERVER = "observer"


def unverified_mode(policy: Policy) -> Mode:
    """Return the mode for what could not be verified: it may warn, but is never off."""
    mode = Mode.weaker(policy.mode, policy.rules.get(UNVERIFIED, Mode.ENFORCE))
    return Mode.WARN if mode is Mode.OFF else mode


def modes(policy: Policy) -> tuple[tuple[str, Mode], ...]:
    """Return every rule's id with its effective mode under a policy."""
    return (*((rule.id, rule.mode(policy)) for rule in rules(policy)), (UNVERIFIED, unverified_mode(policy)))


Row: TypeAlias = tuple[str, str, str, str]


def table() -> list[Row]:
    """Return every rule as (id, mode in standard, mode in strict, what it does), for everything that prints them."""
    return [*map(_row, RULES), (UNVERIFIED, "enforce", "enforce", _ON_UNVERIFIED.partition("\n")[0])]


def added(policy: Policy) -> tuple[Row, ...]:
    """Return the rules that a policy adds to the built-in ones, in the same form."""
    return tuple(map(_row, rules(policy)[len(RULES) :]))


def _row(rule: Rule) -> Row:
    return rule.id, rule.standard.value, rule.strict.value, rule.summary


def documentation() -> dict[str, str]:
    """Return every rule's documentation for users, by its id, in the order of the table."""
    return {rule.id: rule.documentation for rule in RULES} | {UNVERIFIED: _ON_UNVERIFIED}


_ON_UNVERIFIED = """Refuse what cannot be read or verified: odd arguments, or a QEMU that does not answer.

An argument that no reader knows may be one that a newer QEMU takes for a capability; so may a migration parameter.
While QEMU is merely busy, a request waits as it would at QEMU, up to the survey timeout. This rule can warn but is
never off."""
