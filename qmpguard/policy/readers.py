"""Every command that is judged, and its reader: from a request to the operation that it would be.

Only readers look into a request's arguments. A new intercepted command is one reader in `policy/reading/`,
and its line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from qmpguard.policy import blocks
from qmpguard.policy.crashes import crash
from qmpguard.policy.hmp import commands as hmp
from qmpguard.policy.hmp import parser
from qmpguard.policy.hmp.syntax import parse_line
from qmpguard.policy.hmp.translation import as_qmp
from qmpguard.policy.operations import AddNetdev, EndQemu, OpenMonitor, RemoveNetdev, UseDescriptor, WriteHmp
from qmpguard.policy.policy import Policy
from qmpguard.policy.reading import devices, migration, objects
from qmpguard.policy.reading.result import MAX_ENTRIES, Arguments, Harmless, Reading, Unreadable
from qmpguard.policy.schema import CAPABILITIES, PARAMETERS, Schema

__all__ = ["CRASHING", "READERS", "Harmless", "Reader", "Unreadable", "read", "unknown_arguments"]


@dataclass(frozen=True, slots=True)
class Reader:
    """One intercepted command: its reader, and the arguments that the reader knows; None: any, as for a device."""

    read: Callable[[Arguments, Policy], Reading]
    known: frozenset[str] | None = None


def read_hmp(arguments: Arguments, policy: Policy) -> Reading:
    """``human-monitor-command``: the line is parsed as QEMU's monitor parses it, then judged like the QMP command."""
    text = arguments.get("command-line")
    if not isinstance(text, str):
        return Unreadable("'command-line' is not a string")
    command = parser.read(text)
    if (same := as_qmp(command)) is not None:
        return read(*same, policy) or Harmless()
    match command:
        case hmp.ObjectDel(identity):
            return objects.read_object_del({"id": identity}, policy)
        case hmp.NetdevAdd(options):
            return _read_netdev_add(devices.read_netdev_add(options, policy))
        case hmp.NetdevDel(identity):
            return RemoveNetdev(identity, "netdev_del")
        case hmp.Other(name) if name in blocks.LINES:
            return devices.read_block_line(name, text)
        case hmp.Other(name):
            return WriteHmp(name)
        case hmp.Gdbserver(device):  # "none" stops the server; every other device opens a monitor for the debugger
            return WriteHmp("gdbserver") if device == "none" else OpenMonitor("gdbserver")
        case hmp.Info(what) if (found := crash(f"info {what}", {})) is not None:
            return EndQemu(found)
        case hmp.Rejected(reason, newer):
            return _read_rejected(parse_line(text).name, reason, newer=newer)
        case hmp.UnreadableLine(reason):
            return Unreadable(reason)
        case _:
            # device_del among them: a device counts until it is unplugged
            return Harmless()


def _read_netdev_add(reading: Reading) -> Reading:
    """``netdev_add`` by HMP: also where it runs a program, since rule hmp-write is stricter than runs-program."""
    match reading:
        case AddNetdev() | UseDescriptor():
            return replace(reading, line="netdev_add")
        case OpenMonitor():
            return reading
        case _:
            return WriteHmp("netdev_add")


def _read_rejected(command: str, reason: str, *, newer: bool) -> Reading:
    """Return the reading of a line that QEMU refuses, or answers with a help text."""
    if reason == "a request for help" and (found := crash(f"{command} help", {})) is not None:
        return EndQemu(found)
    if newer:
        return Unreadable(f"QEMU 7.2 to 11.1 refuse this line, and a later one may not: {reason}")
    return Harmless()


def read_crashing(command: str) -> Callable[[Arguments, Policy], Reading]:
    """Return the reader of a command that ends some QEMUs with some arguments."""

    def read_query(arguments: Arguments, policy: Policy) -> Reading:
        """A command that ends some QEMUs: rule ``qemu-crash`` judges it."""
        found = crash(command, arguments)
        return EndQemu(found) if found else Harmless()

    return read_query


def unknown_arguments(schema: Schema) -> list[tuple[str, str]]:
    """Return the (command, argument) pairs of a schema that no reader knows: requests with them are refused."""
    return [
        (command, argument)
        for command, reader in READERS.items()
        if reader.known is not None
        for argument in sorted(
            schema.arguments.get(command, frozenset()) - reader.known - _capability_parameters(command, schema)
        )
    ]


def _capability_parameters(command: str, schema: Schema) -> frozenset[str]:
    return schema.capabilities if command == "migrate-set-parameters" else frozenset()


def _arguments(*names: str) -> frozenset[str]:
    return frozenset(names)


#: commands that are judged only since they end some QEMUs
CRASHING = ("xen-load-devices-state", "qom-list-properties", "device-list-properties", "qom-list-types")

#: every command that is judged; all others pass unchanged. Commands for a running migration never wait for a verdict.
READERS: Mapping[str, Reader] = {
    "migrate-set-capabilities": Reader(migration.read_set_capabilities, _arguments("capabilities")),
    "migrate-set-parameters": Reader(migration.read_set_parameters, PARAMETERS | CAPABILITIES),
    "migrate": Reader(migration.read_migrate, _arguments("uri", "channels", "blk", "inc", "detach", "resume")),
    "migrate-incoming": Reader(migration.read_migrate_incoming, _arguments("uri", "channels", "exit-on-error")),
    "migrate-start-postcopy": Reader(migration.read_start_postcopy, _arguments()),
    "snapshot-save": Reader(migration.read_snapshot_save, _arguments("job-id", "tag", "vmstate", "devices")),
    "snapshot-load": Reader(migration.read_snapshot_load, _arguments("job-id", "tag", "vmstate", "devices")),
    "migrate-recover": Reader(migration.read_steering),
    "migrate-pause": Reader(migration.read_steering),
    "migrate-continue": Reader(migration.read_steering),
    "migrate_cancel": Reader(migration.read_steering),
    **{name: Reader(read_crashing(name)) for name in CRASHING},
    "device_add": Reader(devices.read_device_add),
    "object-add": Reader(objects.read_object_add),
    "object-del": Reader(objects.read_object_del),
    "yank": Reader(objects.read_yank),
    "qom-set": Reader(objects.read_qom_set, _arguments("path", "property", "value")),
    "netdev_add": Reader(devices.read_netdev_add),
    "netdev_del": Reader(devices.read_netdev_del),
    "add_client": Reader(objects.read_add_client, _arguments("protocol", "fdname", "skipauth", "tls")),
    **dict.fromkeys(("chardev-add", "chardev-change", "nbd-server-start"), Reader(devices.read_addresses)),
    **dict.fromkeys(("display-update", "block-export-add"), Reader(devices.read_addresses)),
    **dict.fromkeys(sorted(blocks.COMMANDS), Reader(devices.read_block_command)),
    "human-monitor-command": Reader(read_hmp, _arguments("command-line", "cpu-index")),
}


def read(command: str, arguments: Arguments, policy: Policy, schema: Schema | None = None) -> Reading | None:
    """Return the reading of a request; None where the command is not intercepted. Never raises.

    ``schema`` is the present QEMU's; None: not read yet. Each of its capabilities may be a parameter.
    """
    reader = READERS.get(command)
    if reader is None:
        return None
    if len(arguments) > MAX_ENTRIES:
        return Unreadable(f"{command} has more than {MAX_ENTRIES} arguments")
    also = frozenset() if schema is None else _capability_parameters(command, schema)
    unknown = set() if reader.known is None else arguments.keys() - reader.known - also
    if unknown:
        return Unreadable(f"qmpguard does not know the argument '{min(unknown)}' of {command}")
    return reader.read(arguments, policy)
