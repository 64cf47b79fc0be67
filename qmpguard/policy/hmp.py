r"""One line of HMP, read as QEMU's monitor reads it.

Follows ``monitor/hmp.c`` (``get_command_name``, ``get_str``, ``monitor_parse_arguments``), the argument types of
``hmp-commands.hx``, ``util/qemu-option.c`` for ``device_add`` and ``util/keyval.c`` for ``object_add``. The monitor
knows no abbreviations, no comments and no second command on a line; a newline is a space. Where QEMU's versions (7.2 to
11.1) read a line differently, it is read in the way that does more. Knows nothing of rules, requests or machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Line:
    """A command name as QEMU cuts it, and what QEMU goes on to read; ``name`` is empty if the line is blank."""

    name: str
    rest: str


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
    """``object_add type,id=…``: the folded options, always with ``qom-type``; nested keys keep their dots."""

    options: Mapping[str, str]


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
    """Nothing comes of this line: every version refuses it while parsing, or answers with a help text."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
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
    | QomSet
    | Gdbserver
    | SaveVm
    | Info
    | Other
    | Rejected
    | Unreadable
)

MAX_NAME = 255  # bytes: cmdname[256] in monitor_parse_command
MAX_STRING = 1023  # bytes: buf[1024] in monitor_parse_arguments

_SPACES = re.compile(r"[ \t-\r]*+")
_NAME = re.compile(r"[^ \t-\r/]*+")
_WORD = re.compile(r"[^ \t-\r]++")
_QUOTED = re.compile(r"""["](?:[^"\\]++|\\[nr\\'"])*+["]""")
_ESCAPE = re.compile(r"\\(.)")
_GRAPH = re.compile(r"[!-~]*+")
_ODD = re.compile(r"[\x00\ud800-\udfff]")

_KEY = re.compile(r"[^=,]*+")
_VALUE = re.compile(r"((?:[^,]++|,,)*+),?")
_QAPI_NAME = r"(?:__[A-Za-z0-9.-]*+_)?[A-Za-z][A-Za-z0-9_-]*+"
_KEYVAL_KEY = re.compile(rf"{_QAPI_NAME}(?:\.(?:[0-9]++|{_QAPI_NAME}))*+")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*+")
_HELP = frozenset({"help", "?"})


class _LineError(Exception):
    """QEMU would stop here and do nothing. Never leaves this module."""


def parse_line(text: str) -> Line:
    """Cut the command name off: it ends at white space or at a slash, which stays in the rest. Never raises."""
    start = _end(_SPACES, text, 0)
    stop = _end(_NAME, text, start)
    return Line(_truncated(text[start:stop], MAX_NAME), text[_end(_SPACES, text, stop) :])


def read(text: str) -> HmpCommand:
    """Return what QEMU would do on this ``command-line`` of ``human-monitor-command``. Never raises."""
    # QEMU's JSON parser refuses surrogates, and keeps U+0000 as the two bytes C0 80, which no character of ours is.
    if _ODD.search(text):
        return Unreadable("the line holds U+0000 or a lone surrogate")
    line = parse_line(text)
    if not line.name:
        return Rejected("no command")
    reader = _READERS.get(line.name)
    if reader is None:
        return Other(line.name)
    return _read_with(reader, line.rest)


def _read_with(reader: Callable[[_Arguments], HmpCommand], rest: str) -> HmpCommand:
    arguments = _Arguments(rest)
    try:
        command = reader(arguments)
        arguments.end()
    except _LineError as error:
        return Rejected(str(error))
    return command


class _Arguments:
    """The rest of a line, taken apart from the left by the argument types of ``hmp-commands.hx``."""

    __slots__ = ("_at", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def flags(self, letters: str) -> frozenset[str]:
        """Types ``-x``, one after the other: in this order only, each at most once, no space needed behind."""
        return frozenset(x for i, x in enumerate(letters) if self._flag(x, letters[i + 1 :]))

    def _flag(self, letter: str, later: str) -> bool:
        self._skip_spaces()
        if not self._text.startswith("-", self._at):
            return False
        given = self._text[self._at + 1 : self._at + 2]
        if given == letter:
            self._at += 2
            return True
        # A line that ends with the dash counts as a later flag, as in is_valid_option(); the last flag refuses it.
        if later and given in later:
            return False
        raise _LineError(f"unsupported option -{given}")

    def string(self) -> str:
        """Type ``s``: a word with any quotes inside, or a quoted string, which ends at its quote."""
        self._skip_spaces()
        string = self._quoted() if self._text.startswith('"', self._at) else self._take(_WORD)
        if string is None:
            raise _LineError("string expected")
        return _truncated(string, MAX_STRING)

    def _quoted(self) -> str | None:
        quoted = self._take(_QUOTED)
        return None if quoted is None else _ESCAPE.sub(_unescaped, quoted[1:-1])

    def optional_string(self) -> str | None:
        """Type ``s?``: None at the end of the line."""
        self._skip_spaces()
        return self.string() if self._at < len(self._text) else None

    def remainder(self) -> str:
        """Type ``S``: what is left of the line, quotes, escapes and trailing spaces included, at any length."""
        remainder = self.optional_remainder()
        if not remainder:
            raise _LineError("string expected")
        return remainder

    def optional_remainder(self) -> str:
        """Type ``S?``: empty at the end of the line."""
        self._skip_spaces()
        remainder = self._text[self._at :]
        self._at = len(self._text)
        return remainder

    def switch(self) -> bool:
        """Type ``b``: ``on`` or ``off``, never quoted."""
        self._skip_spaces()
        state = self._take(_GRAPH)
        if state not in {"on", "off"}:
            raise _LineError("Expected 'on' or 'off'")
        return state == "on"

    def end(self) -> None:
        """Make sure that nothing follows."""
        self._skip_spaces()
        if self._at < len(self._text):
            raise _LineError("extraneous characters at the end of line")

    def _skip_spaces(self) -> None:
        self._at = _end(_SPACES, self._text, self._at)

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[0]


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None, "only patterns that match the empty string come here"
    return match.end()


def _truncated(text: str, limit: int) -> str:
    # A character cut in two becomes U+FFFD, which is in no name that matters.
    return text.encode(errors="surrogatepass")[:limit].decode(errors="replace")


def _unescaped(escape: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r"}.get(escape[1], escape[1])


def _value(text: str, at: int) -> tuple[str, int]:
    """Read an option's value; return it, and where the next option begins. A doubled comma is a comma."""
    match = _VALUE.match(text, at)
    assert match is not None, "the pattern matches the empty string"
    return match[1].replace(",,", ","), match.end()


def _pairs(text: str, implied: str | None) -> Iterator[tuple[str, str]]:
    """``get_opt_name_value``: ``implied`` names a first option without one; later ones without a value are flags."""
    at = 0
    while at < len(text):
        stop = _end(_KEY, text, at)
        key = text[at:stop]
        if text.startswith("=", stop):
            value, at = _value(text, stop + 1)
        elif implied:
            key = implied
            value, at = _value(text, at)
        else:
            key, value = (key[2:], "off") if key.startswith("no") else (key, "on")
            at = stop + 1
        implied = None
        yield key, value


def _options(text: str) -> dict[str, str]:
    """``opts_parse``: the last of an option wins, but for the id, where the first does.

    The id is looked for with no option implied (``opts_parse_id``): in ``id,driver=e1000`` it is ``on``.
    """
    options = {key: value for key, value in _pairs(text, "driver") if key != "id"}
    name = next((value for key, value in _pairs(text, None) if key == "id"), None)
    if name is None:
        return options
    if not _ID.fullmatch(name):
        raise _LineError("Parameter 'id' expects an identifier")
    return {"id": name} | options


def _keyval(text: str) -> Iterator[tuple[str, str]]:
    """``keyval_parse``: no flags, and no doubled commas in the first value if its key is implied.

    Keys that are too long or contradict each other are not found out here; QEMU refuses them.
    """
    at = 0
    while at < len(text):
        first = at == 0
        stop = _end(_KEY, text, at)
        key = text[at:stop]
        if text.startswith("=", stop) and _KEYVAL_KEY.fullmatch(key):
            value, at = _value(text, stop + 1)
        elif text.startswith("=", stop) or not key:
            raise _LineError(f"Invalid parameter '{key}'")
        elif key in _HELP:
            raise _LineError("a request for help")
        elif first:
            key, value, at = "qom-type", key, stop + 1
        else:
            raise _LineError(f"Expected '=' after parameter '{key}'")
        yield key, value


def _migrate(arguments: _Arguments) -> HmpCommand:
    # From 9.1 on, -b and -i are refused; up to 9.0 they go.
    flags = arguments.flags("dbir")
    return Migrate(arguments.string(), resume="r" in flags)


def _migrate_incoming(arguments: _Arguments) -> HmpCommand:
    return MigrateIncoming(arguments.string())


def _migrate_recover(arguments: _Arguments) -> HmpCommand:
    return MigrateRecover(arguments.string())


def _migrate_start_postcopy(_: _Arguments) -> HmpCommand:
    return MigrateStartPostcopy()


def _migrate_set_capability(arguments: _Arguments) -> HmpCommand:
    return MigrateSetCapability(arguments.string(), arguments.switch())


def _migrate_set_parameter(arguments: _Arguments) -> HmpCommand:
    """The value is one string up to 10.1, and what is left of the line from 10.2 on.

    Where it reads as one string, the string is the value: versions that keep the quotes or a trailing space refuse
    them in every parameter that is not free text.
    """
    name = arguments.string()
    remainder = arguments.remainder()
    value = _Arguments(remainder)
    try:
        word = value.string()
        value.end()
    except _LineError:
        return MigrateSetParameter(name, remainder)
    return MigrateSetParameter(name, word)


def _device_add(arguments: _Arguments) -> HmpCommand:
    options = _options(arguments.optional_string() or "")
    if "driver" not in options:
        raise _LineError("Parameter 'driver' is missing")
    # qdev_device_help(): a key `help` asks for help whatever its value, so `nohelp` does too.
    if options["driver"] in _HELP or _HELP & options.keys():
        raise _LineError("a request for help")
    return DeviceAdd(options)


def _device_del(arguments: _Arguments) -> HmpCommand:
    return DeviceDel(arguments.string())


def _object_add(arguments: _Arguments) -> HmpCommand:
    text = arguments.remainder()
    if text.startswith("{"):
        return Unreadable("object_add with JSON is not read; use QMP's object-add")
    options = dict(_keyval(text))
    if "qom-type" not in options:
        raise _LineError("Parameter 'qom-type' is missing")
    return ObjectAdd(options)


def _qom_set(arguments: _Arguments) -> HmpCommand:
    json = "j" in arguments.flags("j")
    return QomSet(arguments.string(), arguments.string(), arguments.remainder(), json=json)


def _gdbserver(arguments: _Arguments) -> HmpCommand:
    return Gdbserver(arguments.optional_string())


def _savevm(arguments: _Arguments) -> HmpCommand:
    return SaveVm(arguments.optional_string())


def _info(arguments: _Arguments) -> HmpCommand:
    rest = arguments.optional_remainder()
    what = parse_line(rest).name
    if rest and not what:
        raise _LineError("unknown command: 'info'")
    return Info(what)


_READERS: Mapping[str, Callable[[_Arguments], HmpCommand]] = {
    "migrate": _migrate,
    "migrate_incoming": _migrate_incoming,
    "migrate_recover": _migrate_recover,
    "migrate_start_postcopy": _migrate_start_postcopy,
    "migrate_set_capability": _migrate_set_capability,
    "migrate_set_parameter": _migrate_set_parameter,
    "device_add": _device_add,
    "device_del": _device_del,
    "object_add": _object_add,
    "qom-set": _qom_set,
    "gdbserver": _gdbserver,
    "savevm": _savevm,
    "info": _info,
}
