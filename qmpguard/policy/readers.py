"""Readers: from a request to the operation that it would be. Past a reader nobody looks into a request's arguments.

A new intercepted command is one reader and its line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from qmpguard.policy import blocks, sockets
from qmpguard.policy.combinations import names, watched
from qmpguard.policy.crashes import crash
from qmpguard.policy.description import described
from qmpguard.policy.hmp import commands as hmp
from qmpguard.policy.hmp.syntax import parse_line
from qmpguard.policy.hmp.translation import as_qmp
from qmpguard.policy.machine import VFIO_PROPERTIES, Change, Start, is_vfio
from qmpguard.policy.netdevs import MAX_FORWARDS, opens_monitor, program_of
from qmpguard.policy.operations import (
    AddDevice,
    ChangeMonitor,
    EndQemu,
    OpenBlockNode,
    OpenMonitor,
    Operation,
    RunProgram,
    SetCapabilities,
    SetProperty,
    StartMigration,
    TurnAgainstMonitor,
    UseAddress,
    WriteHmp,
)
from qmpguard.policy.policy import Policy
from qmpguard.policy.schema import CAPABILITIES, PARAMETERS, Schema
from qmpguard.policy.target import leaves_the_host
from qmpguard.policy.values import MAX_VALUES, TooManyError
from qmpguard.wire.json import Value


@dataclass(frozen=True, slots=True)
class Harmless:
    """What passes without a look at the machine: it can only lead away from harm, or does not concern VFIO."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Arguments that the reader does not understand: refused, since nobody knows what QEMU would make of them."""

    reason: str


#: entries of a list that are looked through, and arguments: QEMU has some thirty capabilities, and some hundred
#: properties of a device; nobody else is to wait for a client's million
MAX_ENTRIES = 1024

_TOO_MANY = Unreadable(f"it has more than {MAX_VALUES} values")

Reading: TypeAlias = Operation | Harmless | Unreadable
Arguments: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Reader:
    """One intercepted command: how it is read, and which arguments its reader knows (None: any, as for a device's)."""

    read: Callable[[Arguments, Policy], Reading]
    known: frozenset[str] | None = None


def read_set_capabilities(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-set-capabilities``: QEMU applies the list in order, so the last entry of a name wins."""
    entries = arguments.get("capabilities")
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        return Unreadable(f"'capabilities' is not a list of at most {MAX_ENTRIES} entries")
    states = []
    for entry in entries:
        match entry:
            case {"capability": str(name), "state": bool(state), **rest} if not rest:
                states.append((name, state))
            case _:
                return Unreadable("an entry of 'capabilities' is not {capability, state}")
    return _capabilities(states, policy)


def _capabilities(states: list[tuple[str, bool]], policy: Policy) -> Reading:
    judged = watched(policy).capabilities
    if any(state and name in judged for name, state in dict(states).items()):
        return SetCapabilities(tuple(states))
    return Harmless()


def read_migrate(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate``: starts an outgoing migration; with ``resume`` it continues one that is already judged."""
    match arguments.get("resume", False):
        case True:
            return read_steering(arguments, policy)
        case False:
            return _start(
                StartMigration(Start.OUTGOING, to_another_host=leaves_the_host(arguments)), "migrate", arguments
            )
        case _:
            return Unreadable("'resume' is not a boolean")


def read_migrate_incoming(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-incoming``: starts an incoming migration; QEMU has no check of its own on this side."""
    return _start(StartMigration(Start.INCOMING), "migrate-incoming", arguments)


def _start(start: StartMigration, command: str, arguments: Arguments) -> Reading:
    try:
        addresses = sockets.addresses(dict(arguments))
    except TooManyError:
        return _TOO_MANY
    return replace(start, program=_program(arguments), crash=crash(command, arguments), addresses=addresses)


def read_start_postcopy(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-start-postcopy``: the last moment to stop a combination that was made behind the guard's back."""
    return StartMigration(Start.POSTCOPY)


def read_deadly(command: str) -> Callable[[Arguments, Policy], Reading]:
    """Return the reader of a command that ends some QEMUs, with some of its arguments."""

    def read_query(arguments: Arguments, policy: Policy) -> Reading:
        """A command that ends some QEMUs: rule ``qemu-crash`` has the table."""
        found = crash(command, arguments)
        return EndQemu(found) if found else Harmless()

    return read_query


def read_snapshot_save(arguments: Arguments, policy: Policy) -> Reading:
    """``snapshot-save``: refused at the command, since the job that it starts would tell nobody."""
    return StartMigration(Start.SAVE)


def read_snapshot_load(arguments: Arguments, policy: Policy) -> Reading:
    """``snapshot-load``: likewise."""
    return StartMigration(Start.LOAD)


def read_steering(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate_cancel`` and its like: whoever steers a running migration never waits, unless it runs a program."""
    program = _program(arguments)
    return RunProgram(program) if program else Harmless()


def read_addresses(arguments: Arguments, policy: Policy) -> Reading:
    """``chardev-add`` and its like: of interest for the addresses at which QEMU listens, or to which it connects."""
    try:
        found = sockets.addresses(dict(arguments))
    except TooManyError:
        return _TOO_MANY
    return UseAddress(found) if found else Harmless()


def read_yank(arguments: Arguments, policy: Policy) -> Reading:
    """``yank``: of interest where it cuts a character device, which may be the guard's own monitor."""
    instances = arguments.get("instances")
    entries = instances[:MAX_ENTRIES] if isinstance(instances, list) else []
    cut = any(isinstance(entry, dict) and entry.get("type") == "chardev" for entry in entries)
    too_many = isinstance(instances, list) and len(instances) > MAX_ENTRIES
    return TurnAgainstMonitor("yank of a character device") if cut or too_many else Harmless()


def _program(arguments: Arguments) -> str | None:
    """Return what a migration would run: its ``exec:`` URI, or a channel with transport ``exec``."""
    uri, channels = arguments.get("uri"), arguments.get("channels")
    if isinstance(uri, str) and uri.startswith("exec:"):
        return f"uri '{uri}'"
    if isinstance(channels, list) and any(map(_is_exec, channels[:MAX_ENTRIES])):  # QEMU takes two at most
        return "a channel with transport 'exec'"
    return None


def _is_exec(channel: Value) -> bool:
    address = channel.get("addr") if isinstance(channel, dict) else None
    return isinstance(address, dict) and address.get("transport") == "exec"


def read_set_parameters(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-set-parameters``: of interest where a parameter is a capability by another name, or runs a program.

    QEMU has a pending change that makes capabilities parameters.
    """
    states = []
    judged = watched(policy)
    for name in sorted((CAPABILITIES | judged.capabilities) & arguments.keys()):
        state = arguments[name]
        if not isinstance(state, bool):
            return Unreadable(f"'{name}' is not a boolean")
        states.append((name, state))
    program = "cpr-exec-command" if arguments.get("cpr-exec-command") else None
    parameters = tuple((name, arguments[name]) for name in sorted(judged.parameters & arguments.keys()))
    if parameters or any(state and name in judged.capabilities for name, state in states):
        return SetCapabilities(tuple(states), program, parameters)
    return RunProgram(program) if program else Harmless()


def read_netdev_add(arguments: Arguments, policy: Policy) -> Reading:
    """``netdev_add``: of interest for the monitor that a `guestfwd` opens, and for scripts and helpers that it runs."""
    forwards = arguments.get("guestfwd")
    if isinstance(forwards, list) and len(forwards) > MAX_FORWARDS:
        return Unreadable(f"'guestfwd' has more than {MAX_FORWARDS} entries")
    if opens_monitor(arguments):
        return OpenMonitor("netdev_add with 'guestfwd' to a monitor")
    program = program_of(arguments)
    return RunProgram(f"netdev_add with {program}") if program else read_addresses(arguments, policy)


def read_device_add(arguments: Arguments, policy: Policy) -> Reading:
    """``device_add``: one device more, if its driver is a VFIO type, or one that a combination names."""
    match arguments.get("driver"):
        case str(driver) if is_vfio(driver, policy.extra_types):
            return AddDevice(described(driver, arguments))
        case str(driver) if names(driver, policy):
            return AddDevice(described(driver, arguments), is_vfio=False)
        case str():
            return Harmless()
        case _:
            return Unreadable("'driver' is not a string")


def read_block_command(arguments: Arguments, policy: Policy) -> Reading:
    """``blockdev-add`` and its like: of interest for a node that is a VFIO device (`nvme` and its like)."""
    try:
        node = blocks.opened(dict(arguments))
    except TooManyError:
        return _TOO_MANY
    return read_addresses(arguments, policy) if node is None else OpenBlockNode(node)


def _block_line(name: str, text: str) -> Reading:
    try:
        node = blocks.opened_by_line(text)
    except TooManyError:
        return Unreadable(f"{name} with escapes in JSON")
    return WriteHmp(name) if node is None else OpenBlockNode(node)


def read_object_add(arguments: Arguments, policy: Policy) -> Reading:
    """``object-add``: since QEMU 11.1 a monitor is an object."""
    match arguments.get("qom-type"):
        case str(kind) if kind.startswith("monitor"):
            return OpenMonitor(f"object-add of '{kind}'")
        case str("qtest"):
            return TurnAgainstMonitor("object-add of 'qtest'")
        case str():
            return read_addresses(arguments, policy)
        case _:
            return Unreadable("'qom-type' is not a string")


def read_object_del(arguments: Arguments, policy: Policy) -> Reading:
    """``object-del``: of interest where the object is a monitor."""
    match arguments.get("id"):
        case str(identity):
            return ChangeMonitor(f"/objects/{identity}", f"object-del of '{identity}'")
        case _:
            return Unreadable("'id' is not a string")


#: what add_client serves beside character devices, of which any may be a monitor's
_DISPLAYS = frozenset({"vnc", "spice", "@dbus-display"})


def read_add_client(arguments: Arguments, policy: Policy) -> Reading:
    """``add_client``: hands a socket to a display, or to a character device, which may be a monitor's."""
    match arguments.get("protocol"):
        case str(protocol) if protocol in _DISPLAYS:
            return Harmless()
        case str(protocol):
            return OpenMonitor(f"add_client to the character device '{protocol}'")
        case _:
            return Unreadable("'protocol' is not a string")


#: the properties of QEMU's migration object that are capabilities; it is not in the QOM tree today
_CAPABILITY_PROPERTIES = {"x-" + name.removeprefix("x-"): name for name in CAPABILITIES}


def read_qom_set(arguments: Arguments, policy: Policy) -> Reading:
    """``qom-set``: judged by the property, since QEMU takes partial paths."""
    path, name = arguments.get("path"), arguments.get("property")
    if not isinstance(path, str) or not isinstance(name, str):
        return Unreadable("'path' or 'property' is not a string")
    if name in _CAPABILITY_PROPERTIES:
        return _capabilities([(_CAPABILITY_PROPERTIES[name], arguments.get("value") is not False)], policy)
    if name in MONITOR_PROPERTIES:
        return ChangeMonitor(path, f"qom-set of '{name}' of '{path}'")
    return SetProperty(Change(path, name)) if name in VFIO_PROPERTIES else Harmless()


#: the properties of monitor objects (11.1: monitor/qmp.c, monitor/hmp.c)
MONITOR_PROPERTIES = frozenset({"chardev", "pretty", "close-action", "readline"})


def read_hmp(arguments: Arguments, policy: Policy) -> Reading:
    """``human-monitor-command``: the line is read as QEMU's monitor reads it, then judged like the QMP command."""
    text = arguments.get("command-line")
    if not isinstance(text, str):
        return Unreadable("'command-line' is not a string")
    command = hmp.read(text)
    if (same := as_qmp(command)) is not None:
        return read(*same, policy) or Harmless()
    match command:
        case hmp.ObjectDel(identity):
            return read_object_del({"id": identity}, policy)
        case hmp.NetdevAdd(options):
            reading = read_netdev_add(options, policy)
            # what runs a program is a line of HMP all the same: rule hmp-write is the stricter one
            return reading if isinstance(reading, OpenMonitor) else WriteHmp("netdev_add")
        case hmp.Other(name) if name in blocks.LINES:
            return _block_line(name, text)
        case hmp.Other(name):
            return WriteHmp(name)
        case hmp.Gdbserver(device):  # without a device too it makes a monitor inside, which nobody reaches
            return WriteHmp("gdbserver") if device == "none" else OpenMonitor("gdbserver")
        case hmp.Info(what) if (found := crash(f"info {what}", {})) is not None:
            return EndQemu(found)
        case hmp.Rejected("a request for help") if (found := crash(f"{parse_line(text).name} help", {})) is not None:
            return EndQemu(found)
        case hmp.Rejected(reason, newer=True):
            return Unreadable(f"QEMU 7.2 to 11.1 refuse this line, and a later one may not: {reason}")
        case hmp.UnreadableLine(reason):
            return Unreadable(reason)
        case _:
            # a device that is unplugged counts until it has left
            return Harmless()


def unread(schema: Schema) -> list[tuple[str, str]]:
    """Return the (command, argument) pairs of a schema that no reader knows: what uses them is refused."""
    return [
        (command, argument)
        for command, reader in READERS.items()
        if reader.known is not None
        for argument in sorted(schema.arguments.get(command, frozenset()) - reader.known - _also(command, schema))
    ]


def _also(command: str, schema: Schema) -> frozenset[str]:
    return schema.capabilities if command == "migrate-set-parameters" else frozenset()


def _known(*names: str) -> frozenset[str]:
    return frozenset(names)


#: commands that are judged for nothing but that they end some QEMUs
DEADLY = ("xen-load-devices-state", "qom-list-properties", "device-list-properties", "qom-list-types")

#: every command that is judged; all others pass unchanged. Those that steer a migration never wait for a verdict.
READERS: Mapping[str, Reader] = {
    "migrate-set-capabilities": Reader(read_set_capabilities, _known("capabilities")),
    "migrate-set-parameters": Reader(read_set_parameters, PARAMETERS | CAPABILITIES),
    "migrate": Reader(read_migrate, _known("uri", "channels", "blk", "inc", "detach", "resume")),
    "migrate-incoming": Reader(read_migrate_incoming, _known("uri", "channels", "exit-on-error")),
    "migrate-start-postcopy": Reader(read_start_postcopy, _known()),
    "snapshot-save": Reader(read_snapshot_save, _known("job-id", "tag", "vmstate", "devices")),
    "snapshot-load": Reader(read_snapshot_load, _known("job-id", "tag", "vmstate", "devices")),
    "migrate-recover": Reader(read_steering),
    "migrate-pause": Reader(read_steering),
    "migrate-continue": Reader(read_steering),
    "migrate_cancel": Reader(read_steering),
    **{name: Reader(read_deadly(name)) for name in DEADLY},
    "device_add": Reader(read_device_add),
    "object-add": Reader(read_object_add),
    "object-del": Reader(read_object_del),
    "yank": Reader(read_yank),
    "qom-set": Reader(read_qom_set, _known("path", "property", "value")),
    "netdev_add": Reader(read_netdev_add),
    "add_client": Reader(read_add_client, _known("protocol", "fdname", "skipauth", "tls")),
    **dict.fromkeys(("chardev-add", "chardev-change", "nbd-server-start", "display-update"), Reader(read_addresses)),
    "block-export-add": Reader(read_addresses),
    **dict.fromkeys(sorted(blocks.COMMANDS), Reader(read_block_command)),
    "human-monitor-command": Reader(read_hmp, _known("command-line", "cpu-index")),
}


def read(command: str, arguments: Arguments, policy: Policy, schema: Schema | None = None) -> Reading | None:
    """Return what a request would do, None where the command is not intercepted. Never raises.

    ``schema`` is that of the QEMU that is there, where it is known: each of its capabilities may be a parameter.
    """
    reader = READERS.get(command)
    if reader is None:
        return None
    if len(arguments) > MAX_ENTRIES:
        return Unreadable(f"{command} has more than {MAX_ENTRIES} arguments")
    also = frozenset() if schema is None else _also(command, schema)
    unknown = set() if reader.known is None else arguments.keys() - reader.known - also
    if unknown:
        return Unreadable(f"qmpguard does not know the argument '{min(unknown)}' of {command}")
    return reader.read(arguments, policy)
