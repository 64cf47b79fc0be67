"""Reads the lines of a recording: JSON in, values out. What cannot be read is named with its file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from qmpguard.errors import UsageError
from qmpguard.recording.lines import (
    FORMAT,
    EventSeen,
    Exchange,
    Line,
    LinesLost,
    LinkLost,
    LinkUp,
    Members,
    PolicyInUse,
    QemuStarted,
    RecordingBegins,
    Remembered,
    Said,
)
from qmpguard.wire.json import Number, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

#: characters of one line; the longest has QEMU's schema, a quarter of a megabyte
MAX_LINE = 64 << 20
#: levels of one line; what is deeper is hidden when a line is written (`qmpguard.logs.secret.MAX_DEPTH`)
MAX_DEPTH = 100


def read_lines(texts: Iterable[str], name: str) -> Iterator[tuple[int, Line]]:
    """Yield the lines of a recording with their numbers. Raises `UsageError` with file, line and reason.

    A last line without its end is left out: its writer was killed.
    """
    begun = False
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = parse_line(text)
        except (ValueError, RecursionError) as error:
            if begun and not text.endswith("\n"):
                return
            raise UsageError(f"{name}:{number}: this is no line of a recording: {error}") from error
        if not begun and not isinstance(line, RecordingBegins):
            raise UsageError(f'{name}:{number}: this is no recording: its first line is {{"recording": {FORMAT}}}')
        begun = True
        yield number, line


def lines_of_file(file: TextIO, name: str) -> Iterator[str]:
    """Yield the lines of a file. Raises `UsageError` for one longer than `MAX_LINE`: the file may have no end."""
    while text := file.readline(MAX_LINE + 1):
        if len(text) > MAX_LINE:
            raise UsageError(f"{name}: it has a line of more than {MAX_LINE >> 20} MiB; is it the right file?")
        yield text


def parse_line(text: str) -> Line:
    """Return the line in a JSON text. Raises `ValueError` with the reason. Unknown members are passed over."""
    if len(text) > MAX_LINE:
        raise ValueError(f"it is longer than {MAX_LINE} characters")
    members = json.loads(text, parse_float=Number, parse_constant=Number)
    if not isinstance(members, dict):
        raise ValueError("it is no object")
    if _is_too_deep(members):
        raise ValueError(f"it has more than {MAX_DEPTH} levels")
    for key, reader in _READERS.items():
        if key in members:
            return reader(members)
    raise ValueError(f"it has none of {', '.join(_READERS)}")


def _is_too_deep(value: Value) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [member for one in level for member in _members(one)]
        if not level:
            return False
    return True


def _members(value: Value) -> Iterable[Value]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _begins(members: Members) -> Line:
    number = members["recording"]
    if type(number) is not int or not 1 <= number <= FORMAT:
        raise ValueError(f"its format is {number}, and this version reads up to {FORMAT}")
    return RecordingBegins(number, str(members.get("program", "")), _read_time(members))


def _started(members: Members) -> Line:
    arguments = members["start"]
    if not isinstance(arguments, list):
        raise ValueError("'start' is a list of strings")
    return QemuStarted(_text(members, "vm"), tuple(map(str, arguments)))


def _link(members: Members) -> Line:
    if members["link"] == "up":
        return LinkUp(_text(members, "vm"), _text(members, "qemu"), _read_time(members))
    return LinkLost(_text(members, "vm"), str(members.get("reason", "")), _read_time(members))


def _policy(members: Members) -> Line:
    own = members.get("own", [])
    if not isinstance(own, list):
        raise ValueError("'own' is a list of strings")
    return PolicyInUse(_text(members, "vm"), _object(members, "policy"), tuple(map(str, own)), _read_time(members))


def _remembered(members: Members) -> Line:
    return Remembered(_text(members, "vm"), _object(members, "remembered"), _read_time(members))


def _exchange(members: Members) -> Line:
    oob = "exec-oob" in members
    client = members.get("client")
    return Exchange(
        _text(members, "vm"),
        _text(members, "exec-oob" if oob else "execute"),
        _object(members, "arguments") if "arguments" in members else None,
        _object(members, "reply"),
        client if isinstance(client, int | str) else None,
        oob,
        members.get("descriptor") is True,
        _said(members["said"]) if "said" in members else None,
        _read_time(members),
    )


def _said(value: Value) -> Said:
    if not isinstance(value, dict) or not isinstance(rules := value.get("rules", {}), dict):
        raise ValueError("'said' is an object with 'verdict' and 'rules'")
    return Said(_text(value, "verdict"), tuple((rule, str(mode)) for rule, mode in rules.items()))


def _event(members: Members) -> Line:
    data = _object(members, "data") if "data" in members else {}
    return EventSeen(_text(members, "vm"), _text(members, "event"), data, _read_time(members))


def _lost(members: Members) -> Line:
    count = members.get("lines")
    return LinesLost(count if isinstance(count, int) else 1)


#: the member that tells each line
_READERS: Mapping[str, Callable[[Members], Line]] = {
    "recording": _begins,
    "execute": _exchange,
    "exec-oob": _exchange,
    "event": _event,
    "link": _link,
    "policy": _policy,
    "remembered": _remembered,
    "start": _started,
    "kind": _lost,
}


def _text(members: Mapping[str, Value], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name!r} is a string")
    return value


def _object(members: Mapping[str, Value], name: str) -> Members:
    value = members.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} is an object")
    return value


def _read_time(members: Mapping[str, Value]) -> float | None:
    match members.get("time"):
        case Number(text):
            return float(text)
        case bool():
            return None
        case int(seconds):
            return float(str(seconds))  # infinite, where it is too large for `float` itself
        case _:
            return None
