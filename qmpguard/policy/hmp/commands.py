r"""One line of HMP, read as QEMU's monitor reads it: what it would do.

The monitor knows no abbreviations, no comments and no second command on a line; a newline is a space. Where QEMU's
versions (7.2 to 11.1) read a line differently, it is read in the way that does more. `hmp_syntax` has the syntax.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.policy.hmp.syntax import HELP, Arguments, LineError, parse_line, read_keyval, read_options, read_pairs
from qmpguard.wire.framing import Framer, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qmpguard.wire.json import Value


@dataclass(frozen=True, slots=True)
class Migrate:
    """``migrate [-d] [-b] [-i] [-r] uri``. ``-r`` makes it ``resume``; the other flags have no bearing."""

    uri: str
    resume: bool


@dataclass(frozen=True, slots=True)
class MigrateIncoming:
    """``migrate_incoming uri``."""

    uri: str


@dataclass(frozen=True, slots=True)
class MigrateRecover:
    """``migrate_recover uri``."""

    uri: str


@dataclass(frozen=True, slots=True)
class MigrateStartPostcopy:
    """``migrate_start_postcopy``."""


@dataclass(frozen=True, slots=True)
class MigrateSetCapability:
    """``migrate_set_capability capability on|off``. The name need not be one that QEMU knows."""

    name: str
    state: bool


@dataclass(frozen=True, slots=True)
class MigrateSetParameter:
    """``migrate_set_parameter parameter value``. Where versions read the value differently, the effective one."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class DeviceAdd:
    """``device_add driver[,prop=value…]``: the folded options, always with ``driver``, with ``id`` if there is one."""

    options: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DeviceDel:
    """``device_del id``, where the id may be a QOM path."""

    id: str


@dataclass(frozen=True, slots=True)
class ObjectAdd:
    """``object_add type,id=…``, or JSON: the options, always with ``qom-type``; nested keys keep their dots."""

    options: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class ObjectDel:
    """``object_del id``."""

    id: str


@dataclass(frozen=True, slots=True)
class NetdevAdd:
    """``netdev_add type[,prop=value…]``: the options; of `guestfwd` every value, since some versions read them all."""

    options: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class QomSet:
    """``qom-set [-j] path property value``; with ``-j`` the value is JSON text."""

    path: str
    property: str
    value: str
    json: bool


@dataclass(frozen=True, slots=True)
class Gdbserver:
    """``gdbserver [device]``; None is QEMU's default, ``tcp::1234``, and ``none`` switches it off."""

    device: str | None


@dataclass(frozen=True, slots=True)
class SaveVm:
    """``savevm [tag]``."""

    tag: str | None


@dataclass(frozen=True, slots=True)
class Info:
    """``info [what]``, which only reads; ``what`` is empty for the list of topics."""

    what: str


@dataclass(frozen=True, slots=True)
class Other:
    """A command that no reader judges, or one that QEMU does not know; its arguments are not read."""

    name: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """Nothing comes of this line: every version refuses it while parsing, or answers with a help text.

    ``newer``: for a flag or an argument that a later version may know.
    """

    reason: str
    newer: bool = False


@dataclass(frozen=True, slots=True)
class UnreadableLine:
    """Nobody here can tell what QEMU would make of this line."""

    reason: str


HmpCommand: TypeAlias = (
    Migrate
    | MigrateIncoming
    | MigrateRecover
    | MigrateStartPostcopy
    | MigrateSetCapability
    | MigrateSetParameter
    | DeviceAdd
    | DeviceDel
    | ObjectAdd
    | ObjectDel
    | NetdevAdd
    | QomSet
    | Gdbserver
    | SaveVm
    | Info
    | Other
    | Rejected
    | UnreadableLine
)

#: characters of a line that is looked through: people type some hundred, and megabytes would hold up other clients
MAX_LINE = 64 << 10
_ODD = re.compile(r"[\x00\ud800-\udfff]")


def read(text: str) -> HmpCommand:
    """Return what QEMU would do on this ``command-line`` of ``human-monitor-command``. Never raises."""
    if len(text) > MAX_LINE:
        return UnreadableLine(f"the line has more than {MAX_LINE} characters")
    # QEMU's JSON parser refuses surrogates, and keeps U+0000 as the two bytes C0 80, which no character of ours is.
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
    # From 9.1 on, -b and -i are refused; up to 9.0 they go.
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
    """The value is one string up to 10.1, and what is left of the line from 10.2 on.

    Where it reads as one string, the string is the value: versions that keep the quotes or a trailing space refuse
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
    # qdev_device_help(): a key `help` asks for help whatever its value, so `nohelp` does too.
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
    pairs = tuple(read_pairs(arguments.string(), "type"))
    forwards: list[Value] = [value for key, value in pairs if key == "guestfwd"]
    return NetdevAdd(dict(pairs) | ({"guestfwd": forwards} if forwards else {}))


def _json_object(text: str) -> HmpCommand:
    """``user_creatable_parse_str``: what begins with a bracket is one JSON value, in QEMU's own dialect."""
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
    "qom-set": _qom_set,
    "gdbserver": _gdbserver,
    "savevm": _savevm,
    "info": _info,
}
