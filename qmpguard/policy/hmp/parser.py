"""Parses one HMP line as QEMU's monitor parses it. `syntax` has the syntax, `commands` the results.

The monitor has no abbreviations, no comments and no second command on a line; a newline is a space. Where QEMU's
versions (7.2 to 11.1) parse a line differently, the parse with the larger effect counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpguard.policy.hmp.commands import (
    DeviceAdd,
    DeviceDel,
    Gdbserver,
    HmpCommand,
    Info,
    Migrate,
    MigrateIncoming,
    MigrateRecover,
    MigrateSetCapability,
    MigrateSetParameter,
    MigrateStartPostcopy,
    NetdevAdd,
    NetdevDel,
    ObjectAdd,
    ObjectDel,
    Other,
    QomSet,
    Rejected,
    SaveVm,
    UnreadableLine,
)
from qmpguard.policy.hmp.syntax import HELP, Arguments, LineError, parse_line, read_keyval, read_options, read_pairs
from qmpguard.wire.framing import Framer, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpguard.wire.json import Value

#: characters of a line that is parsed: people type some hundred, and megabytes would delay other clients
MAX_LINE = 64 << 10
_ODD = re.compile(r"[\x00\ud800-\udfff]")


def read(text: str) -> HmpCommand:
    """Return the command in a ``command-line`` of ``human-monitor-command``. Never raises."""
    if len(text) > MAX_LINE:
        return UnreadableLine(f"the line has more than {MAX_LINE} characters")
    # QEMU's JSON parser refuses surrogates, and keeps U+0000 as the bytes C0 80, which no Python character encodes to.
    if _ODD.search(text):
        return UnreadableLine("the line holds U+0000 or a lone surrogate")
    line = parse_line(text)
    if not line.name:
        return Rejected("no command")
    reader = _READERS.get(line.name)
    if reader is None:
        return Other(line.name)
    return _read_with(reader, line.rest)


def _read_with(reader: Callable[[Arguments], HmpCommand], rest: str) -> HmpCommand:
    arguments = Arguments(rest)
    try:
        command = reader(arguments)
        arguments.end()
    except LineError as error:
        return Rejected(str(error), error.newer)
    return command


def _migrate(arguments: Arguments) -> HmpCommand:
    # From 9.1 on, -b and -i are refused; up to 9.0 they are accepted.
    flags = arguments.flags("dbir")
    return Migrate(arguments.string(), resume="r" in flags)


def _migrate_incoming(arguments: Arguments) -> HmpCommand:
    return MigrateIncoming(arguments.string())


def _migrate_recover(arguments: Arguments) -> HmpCommand:
    return MigrateRecover(arguments.string())


def _migrate_start_postcopy(_: Arguments) -> HmpCommand:
    return MigrateStartPostcopy()


def _migrate_set_capability(arguments: Arguments) -> HmpCommand:
    return MigrateSetCapability(arguments.string(), arguments.switch())


def _migrate_set_parameter(arguments: Arguments) -> HmpCommand:
    """Parse the value, which is one string up to 10.1, and the rest of the line from 10.2 on.

    Where the rest is one string, that string is the value: versions that keep the quotes or a trailing space refuse
    them in every parameter that is not free text.
    """
    name = arguments.string()
    remainder = arguments.remainder()
    value = Arguments(remainder)
    try:
        word = value.string()
        value.end()
    except LineError:
        return MigrateSetParameter(name, remainder)
    return MigrateSetParameter(name, word)


def _device_add(arguments: Arguments) -> HmpCommand:
    options = read_options(arguments.optional_string() or "")
    if "driver" not in options:
        raise LineError("Parameter 'driver' is missing")
    # qdev_device_help(): the key `help` asks for help with any value, so `nohelp` does too.
    if options["driver"] in HELP or HELP & options.keys():
        raise LineError("a request for help")
    return DeviceAdd(options)


def _device_del(arguments: Arguments) -> HmpCommand:
    return DeviceDel(arguments.string())


def _object_add(arguments: Arguments) -> HmpCommand:
    text = arguments.remainder()
    if text.startswith("{"):
        return _json_object(text)
    options = dict(read_keyval(text))
    if "qom-type" not in options:
        raise LineError("Parameter 'qom-type' is missing")
    return ObjectAdd(options)


def _object_del(arguments: Arguments) -> HmpCommand:
    return ObjectDel(arguments.string())


def _netdev_add(arguments: Arguments) -> HmpCommand:
    text = arguments.string()
    pairs = tuple(read_pairs(text, "type"))
    forwards: list[Value] = [value for key, value in pairs if key == "guestfwd"]
    first = [("id", value) for key, value in read_pairs(text, None) if key == "id"][:1]  # as in read_options
    return NetdevAdd(dict(pairs) | dict(first) | ({"guestfwd": forwards} if forwards else {}))


def _netdev_del(arguments: Arguments) -> HmpCommand:
    return NetdevDel(arguments.string())


def _json_object(text: str) -> HmpCommand:
    """``user_creatable_parse_str``: a text that begins with a brace is one JSON value, in QEMU's dialect."""
    framer = Framer()
    framer.feed(text.encode())
    item = framer.pull_whole()
    alone = framer.pull() is None and not framer.held
    match item:
        case Message(dict() as options) if alone and isinstance(options.get("qom-type"), str):
            return ObjectAdd(options)
        case _:
            return UnreadableLine("object_add with JSON that is not one object with a qom-type")


def _qom_set(arguments: Arguments) -> HmpCommand:
    json = "j" in arguments.flags("j")
    return QomSet(arguments.string(), arguments.string(), arguments.remainder(), json=json)


def _gdbserver(arguments: Arguments) -> HmpCommand:
    return Gdbserver(arguments.optional_string())


def _savevm(arguments: Arguments) -> HmpCommand:
    return SaveVm(arguments.optional_string())


def _info(arguments: Arguments) -> HmpCommand:
    rest = arguments.optional_remainder()
    what = parse_line(rest).name
    if rest and not what:
        raise LineError("unknown command: 'info'")
    return Info(what)


_READERS: Mapping[str, Callable[[Arguments], HmpCommand]] = {
    "migrate": _migrate,
    "migrate_incoming": _migrate_incoming,
    "migrate_recover": _migrate_recover,
    "migrate_start_postcopy": _migrate_start_postcopy,
    "migrate_set_capability": _migrate_set_capability,
    "migrate_set_parameter": _migrate_set_parameter,
    "device_add": _device_add,
    "device_del": _device_del,
    "object_add": _object_add,
    "object_del": _object_del,
    "netdev_add": _netdev_add,
    "netdev_del": _netdev_del,
    "qom-set": _qom_set,
    "gdbserver": _gdbserver,
    "savevm": _savevm,
    "info": _info,
}
