"""Readers: from a request to the operation that it would be. Past a reader nobody looks into a request's arguments.

A new intercepted command is one reader and its line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from qmpguard.policy import hmp
from qmpguard.policy.machine import DANGEROUS, VFIO_PROPERTIES, Change, Device, Start, is_vfio
from qmpguard.policy.operations import (
    AddDevice,
    OpenMonitor,
    Operation,
    RunProgram,
    SetCapabilities,
    SetProperty,
    StartMigration,
    WriteHmp,
)
from qmpguard.policy.policy import Policy
from qmpguard.policy.schema import Schema
from qmpguard.wire.json import Value


@dataclass(frozen=True, slots=True)
class Harmless:
    """What passes without a look at the machine: it can only lead away from harm, or does not concern VFIO."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Arguments that the reader does not understand: refused, since nobody knows what QEMU would make of them."""

    reason: str


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
    if not isinstance(entries, list):
        return Unreadable("'capabilities' is not a list")
    states = []
    for entry in entries:
        match entry:
            case {"capability": str(name), "state": bool(state), **rest} if not rest:
                states.append((name, state))
            case _:
                return Unreadable("an entry of 'capabilities' is not {capability, state}")
    return _capabilities(states)


def _capabilities(states: list[tuple[str, bool]]) -> Reading:
    if any(state and name in DANGEROUS for name, state in dict(states).items()):
        return SetCapabilities(tuple(states))
    return Harmless()


def read_migrate(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate``: starts an outgoing migration; with ``resume`` it continues one that is already judged."""
    match arguments.get("resume", False):
        case True:
            return Harmless()
        case False:
            return StartMigration(Start.OUTGOING, _program(arguments))
        case _:
            return Unreadable("'resume' is not a boolean")


def read_migrate_incoming(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-incoming``: starts an incoming migration; QEMU has no check of its own on this side."""
    return StartMigration(Start.INCOMING, _program(arguments))


def read_start_postcopy(arguments: Arguments, policy: Policy) -> Reading:
    """``migrate-start-postcopy``: the last moment to stop a combination that was made behind the guard's back."""
    return StartMigration(Start.POSTCOPY)


def _program(arguments: Arguments) -> str | None:
    """Return what a migration would run: its ``exec:`` URI, or a channel with transport ``exec``."""
    uri, channels = arguments.get("uri"), arguments.get("channels")
    if isinstance(uri, str) and uri.startswith("exec:"):
        return f"uri '{uri}'"
    if isinstance(channels, list) and any(map(_is_exec, channels)):
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
    for name in sorted(DANGEROUS & arguments.keys()):
        state = arguments[name]
        if not isinstance(state, bool):
            return Unreadable(f"'{name}' is not a boolean")
        states.append((name, state))
    if any(state for _, state in states):
        return SetCapabilities(tuple(states))
    return RunProgram("cpr-exec-command") if "cpr-exec-command" in arguments else Harmless()


def read_device_add(arguments: Arguments, policy: Policy) -> Reading:
    """``device_add``: one device more, if its driver is a VFIO type."""
    match arguments.get("driver"):
        case str(driver) if is_vfio(driver, policy.extra_types):
            return AddDevice(_described(driver, arguments))
        case str():
            return Harmless()
        case _:
            return Unreadable("'driver' is not a string")


def _described(driver: str, arguments: Arguments) -> Device:
    def text(name: str) -> str | None:
        value = arguments.get(name)
        return value if isinstance(value, str) else None

    identity = text("id") or None
    # QEMU 8.1 takes JSON's true for on; up to 8.0 the property has an x- and is a boolean
    forced = any(arguments.get(name) in (True, "on") for name in ("enable-migration", "x-enable-migration"))
    return Device(
        path=f"/machine/peripheral/{identity}" if identity else f"a new {driver}",
        driver=driver,
        id=identity,
        host=text("host"),
        sysfsdev=text("sysfsdev"),
        failover_pair_id=text("failover_pair_id"),
        migration_forced=forced,
    )


def read_object_add(arguments: Arguments, policy: Policy) -> Reading:
    """``object-add``: since QEMU 11.1 a monitor is an object."""
    match arguments.get("qom-type"):
        case str(kind):
            return _object(kind)
        case _:
            return Unreadable("'qom-type' is not a string")


def _object(kind: str) -> Reading:
    return OpenMonitor(f"object-add of '{kind}'") if kind.startswith("monitor") else Harmless()


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
_CAPABILITY_PROPERTIES = {"x-" + name: name for name in DANGEROUS}


def read_qom_set(arguments: Arguments, policy: Policy) -> Reading:
    """``qom-set``: judged by the property, since QEMU takes partial paths."""
    path, name = arguments.get("path"), arguments.get("property")
    if not isinstance(path, str) or not isinstance(name, str):
        return Unreadable("'path' or 'property' is not a string")
    return _property(path, name, off=arguments.get("value") is False)


def _property(path: str, name: str, *, off: bool) -> Reading:
    if name in _CAPABILITY_PROPERTIES:
        return _capabilities([(_CAPABILITY_PROPERTIES[name], not off)])
    return SetProperty(Change(path, name)) if name in VFIO_PROPERTIES else Harmless()


def read_hmp(arguments: Arguments, policy: Policy) -> Reading:
    """``human-monitor-command``: the line is read as QEMU's monitor reads it, then judged like the QMP command."""
    text = arguments.get("command-line")
    if not isinstance(text, str):
        return Unreadable("'command-line' is not a string")
    return _hmp(hmp.read(text), policy)


def _hmp(command: hmp.HmpCommand, policy: Policy) -> Reading:  # noqa: C901 -- one line for each kind of line
    match command:
        case hmp.Migrate(uri, resume):
            return read_migrate({"uri": uri, "resume": resume}, policy)
        case hmp.MigrateIncoming(uri):
            return read_migrate_incoming({"uri": uri}, policy)
        case hmp.MigrateStartPostcopy():
            return read_start_postcopy({}, policy)
        case hmp.MigrateSetCapability(name, state):
            return _capabilities([(name, state)])
        case hmp.MigrateSetParameter(name, value):
            return _hmp_parameter(name, value, policy)
        case hmp.DeviceAdd(options):
            return read_device_add(dict(options), policy)
        case hmp.ObjectAdd(options):
            return read_object_add(dict(options), policy)
        case hmp.QomSet(path, name):
            return _property(path, name, off=False)
        case hmp.Gdbserver(device):
            return Harmless() if device == "none" else OpenMonitor("gdbserver")
        case hmp.Other(name):
            return WriteHmp(name)
        case hmp.Unreadable(reason):
            return Unreadable(reason)
        case hmp.Info() | hmp.Rejected() | hmp.SaveVm() | hmp.DeviceDel():
            # QEMU exempts savevm itself, and a device that is unplugged counts until it has left
            return Harmless()
        case _:
            assert_never(command)


def _hmp_parameter(name: str, value: str, policy: Policy) -> Reading:
    return read_set_parameters({name: value not in ("off", "false", "0") if name in DANGEROUS else value}, policy)


def unread(schema: Schema) -> list[tuple[str, str]]:
    """Return the (command, argument) pairs of a schema that no reader knows: what uses them is refused."""
    return [
        (command, argument)
        for command, reader in READERS.items()
        if reader.known is not None
        for argument in sorted(schema.arguments.get(command, frozenset()) - reader.known)
    ]


def _known(*names: str) -> frozenset[str]:
    return frozenset(names)


#: the parameters of QEMU 7.2 to 11.1; a new one may be a capability by another name
PARAMETERS = _known(
    *("announce-initial", "announce-max", "announce-rounds", "announce-step", "avail-switchover-bandwidth"),
    *("block-bitmap-mapping", "block-incremental", "compress-level", "compress-threads", "compress-wait-thread"),
    *("cpr-exec-command", "cpu-throttle-increment", "cpu-throttle-initial", "cpu-throttle-tailslow"),
    *("decompress-threads", "direct-io", "downtime-limit", "max-bandwidth", "max-cpu-throttle"),
    *("max-postcopy-bandwidth", "mode", "multifd-channels", "multifd-compression", "multifd-qatzip-level"),
    *("multifd-zlib-level", "multifd-zstd-level", "throttle-trigger-threshold", "tls-authz", "tls-creds"),
    *("tls-hostname", "vcpu-dirty-limit", "x-checkpoint-delay", "x-rdma-chunk-size", "x-vcpu-dirty-limit-period"),
    *("xbzrle-cache-size", "zero-page-detection"),
)

#: every command that is judged; all others pass unchanged
READERS: Mapping[str, Reader] = {
    "migrate-set-capabilities": Reader(read_set_capabilities, _known("capabilities")),
    "migrate-set-parameters": Reader(read_set_parameters, PARAMETERS | DANGEROUS),
    "migrate": Reader(read_migrate, _known("uri", "channels", "blk", "inc", "detach", "resume")),
    "migrate-incoming": Reader(read_migrate_incoming, _known("uri", "channels", "exit-on-error")),
    "migrate-start-postcopy": Reader(read_start_postcopy, _known()),
    "device_add": Reader(read_device_add),
    "object-add": Reader(read_object_add),
    "qom-set": Reader(read_qom_set, _known("path", "property", "value")),
    "add_client": Reader(read_add_client, _known("protocol", "fdname", "skipauth", "tls")),
    "human-monitor-command": Reader(read_hmp, _known("command-line", "cpu-index")),
}


def read(command: str, arguments: Arguments, policy: Policy) -> Reading | None:
    """Return what a request would do, None where the command is not intercepted. Never raises."""
    reader = READERS.get(command)
    if reader is None:
        return None
    unknown = set() if reader.known is None else arguments.keys() - reader.known
    if unknown:
        return Unreadable(f"qmpguard does not know the argument '{min(unknown)}' of {command}")
    return reader.read(arguments, policy)
