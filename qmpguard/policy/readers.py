"""Every command that is judged, and its reader: from a request to the operation that it would be.

Past a reader nobody looks into a request's arguments. A new intercepted command is one reader in `policy/reading/`,
and its line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qmpguard.policy import blocks
from qmpguard.policy.crashes import crash
from qmpguard.policy.hmp import commands as hmp
from qmpguard.policy.hmp import parser
from qmpguard.policy.hmp.syntax import parse_line
from qmpguard.policy.hmp.translation import as_qmp
from qmpguard.policy.operations import EndQemu, OpenMonitor, WriteHmp
from qmpguard.policy.policy import Policy
from qmpguard.policy.reading import devices, migration, objects
from qmpguard.policy.reading.result import MAX_ENTRIES, Arguments, Harmless, Reading, Unreadable
from qmpguard.policy.schema import CAPABILITIES, PARAMETERS, Schema

__all__ = ["DEADLY", "READERS", "Harmless", "Reader", "Unreadable", "read", "unread"]


@dataclass(frozen=True, slots=True)
class Reader:
    """One intercepted command: how it is read, and which arguments its reader knows (None: any, as for a device's)."""

    read: Callable[[Arguments, Policy], Reading]
    known: frozenset[str] | None = None


def read_hmp(arguments: Arguments, policy: Policy) -> Reading:
    """``human-monitor-command``: the line is read as QEMU's monitor reads it, then judged like the QMP command."""
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
            reading = devices.read_netdev_add(options, policy)
            # what runs a program is a line of HMP all the same: rule hmp-write is the stricter one
            return reading if isinstance(reading, OpenMonitor) else WriteHmp("netdev_add")
        case hmp.Other(name) if name in blocks.LINES:
            return devices.read_block_line(name, text)
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


def read_deadly(command: str) -> Callable[[Arguments, Policy], Reading]:
    """Return the reader of a command that ends some QEMUs, with some of its arguments."""

    def read_query(arguments: Arguments, policy: Policy) -> Reading:
        """A command that ends some QEMUs: rule ``qemu-crash`` has the table."""
        found = crash(command, arguments)
        return EndQemu(found) if found else Harmless()

    return read_query


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
    "migrate-set-capabilities": Reader(migration.read_set_capabilities, _known("capabilities")),
    "migrate-set-parameters": Reader(migration.read_set_parameters, PARAMETERS | CAPABILITIES),
    "migrate": Reader(migration.read_migrate, _known("uri", "channels", "blk", "inc", "detach", "resume")),
    "migrate-incoming": Reader(migration.read_migrate_incoming, _known("uri", "channels", "exit-on-error")),
    "migrate-start-postcopy": Reader(migration.read_start_postcopy, _known()),
    "snapshot-save": Reader(migration.read_snapshot_save, _known("job-id", "tag", "vmstate", "devices")),
    "snapshot-load": Reader(migration.read_snapshot_load, _known("job-id", "tag", "vmstate", "devices")),
    "migrate-recover": Reader(migration.read_steering),
    "migrate-pause": Reader(migration.read_steering),
    "migrate-continue": Reader(migration.read_steering),
    "migrate_cancel": Reader(migration.read_steering),
    **{name: Reader(read_deadly(name)) for name in DEADLY},
    "device_add": Reader(devices.read_device_add),
    "object-add": Reader(objects.read_object_add),
    "object-del": Reader(objects.read_object_del),
    "yank": Reader(objects.read_yank),
    "qom-set": Reader(objects.read_qom_set, _known("path", "property", "value")),
    "netdev_add": Reader(devices.read_netdev_add),
    "add_client": Reader(objects.read_add_client, _known("protocol", "fdname", "skipauth", "tls")),
    **dict.fromkeys(("chardev-add", "chardev-change", "nbd-server-start"), Reader(devices.read_addresses)),
    **dict.fromkeys(("display-update", "block-export-add"), Reader(devices.read_addresses)),
    **dict.fromkeys(sorted(blocks.COMMANDS), Reader(devices.read_block_command)),
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
