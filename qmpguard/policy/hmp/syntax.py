r"""The syntax of HMP: a line's command name, the types of its arguments, and the two syntaxes of options.

Follows ``monitor/hmp.c`` (``get_command_name``, ``get_str``, ``monitor_parse_arguments``), the argument types of
``hmp-commands.hx``, ``util/qemu-option.c`` for ``device_add`` and ``util/keyval.c`` for ``object_add``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Line:
    """A command name as QEMU cuts it off, and the rest of the line; ``name`` is empty if the line is blank."""

    name: str
    rest: str


MAX_NAME = 255  # bytes: cmdname[256] in monitor_parse_command
MAX_STRING = 1023  # bytes: buf[1024] in monitor_parse_arguments

_SPACES = re.compile(r"[ \t-\r]*+")
_NAME = re.compile(r"[^ \t-\r/]*+")
_WORD = re.compile(r"[^ \t-\r]++")
_QUOTED = re.compile(r"""["](?:[^"\\]++|\\[nr\\'"])*+["]""")
_ESCAPE = re.compile(r"\\(.)")
_GRAPH = re.compile(r"[!-~]*+")

_KEY = re.compile(r"[^=,]*+")
_VALUE = re.compile(r"((?:[^,]++|,,)*+),?")
_QAPI_NAME = r"(?:__[A-Za-z0-9.-]*+_)?[A-Za-z][A-Za-z0-9_-]*+"
# Each of these is matched by itself: Python before 3.11.5 (Debian 12 has 3.11.2) misreads a possessive group of them.
_KEYVAL_FIRST = re.compile(_QAPI_NAME)
_KEYVAL_NEXT = re.compile(rf"\.(?:[0-9]++|{_QAPI_NAME})")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*+")
#: the words that ask for help in place of a name (QEMU include/qemu/help-texts.h: is_help_option)
HELP = frozenset({"help", "?"})


class LineError(Exception):
    """QEMU 7.2 to 11.1 stop parsing here and do nothing. ``newer``: a later version may know the flag or argument."""

    def __init__(self, reason: str, *, newer: bool = False) -> None:
        super().__init__(reason)
        self.newer = newer


def parse_line(text: str) -> Line:
    """Cut the command name off: it ends at white space or at a slash, which stays in the rest. Never raises."""
    start = _end(_SPACES, text, 0)
    stop = _end(_NAME, text, start)
    return Line(_truncated(text[start:stop], MAX_NAME), text[_end(_SPACES, text, stop) :])


class Arguments:
    """The rest of a line, parsed from the left by the argument types of ``hmp-commands.hx``."""

    __slots__ = ("_at", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def flags(self, letters: str) -> frozenset[str]:
        """Types ``-x``, one after the other: only in this order, each at most once, no space needed after it."""
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
        raise LineError(f"unsupported option -{given}", newer=True)

    def string(self) -> str:
        """Type ``s``: a word with any quotes inside, or a quoted string, which ends at its quote."""
        self._skip_spaces()
        string = self._quoted() if self._text.startswith('"', self._at) else self._take(_WORD)
        if string is None:
            raise LineError("string expected")
        return _truncated(string, MAX_STRING)

    def _quoted(self) -> str | None:
        quoted = self._take(_QUOTED)
        # escapes beyond the limit need not be resolved: two characters make at least one byte
        return None if quoted is None else _ESCAPE.sub(_unescaped, quoted[1:-1][: 2 * MAX_STRING + 2])

    def optional_string(self) -> str | None:
        """Type ``s?``: None at the end of the line."""
        self._skip_spaces()
        return self.string() if self._at < len(self._text) else None

    def remainder(self) -> str:
        """Type ``S``: the rest of the line, with quotes, escapes and trailing spaces, at any length."""
        remainder = self.optional_remainder()
        if not remainder:
            raise LineError("string expected")
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
            raise LineError("Expected 'on' or 'off'")
        return state == "on"

    def end(self) -> None:
        """Raise `LineError` if anything follows."""
        self._skip_spaces()
        if self._at < len(self._text):
            raise LineError("extraneous characters at the end of line", newer=True)

    def _skip_spaces(self) -> None:
        self._at = _end(_SPACES, self._text, self._at)

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[0]


def is_keyval_key(text: str) -> bool:
    """Say whether QEMU takes a text as a key of ``KEY=VALUE,...``. Source: QEMU util/keyval.c: keyval_parse_one."""
    match = _KEYVAL_FIRST.match(text)
    while match and match.end() < len(text):
        match = _KEYVAL_NEXT.match(text, match.end())
    return match is not None


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None, "only patterns that match the empty string come here"
    return match.end()


def _truncated(text: str, limit: int) -> str:
    # A character that is cut in two becomes U+FFFD, which is in no name that a reader knows.
    return text[:limit].encode(errors="surrogatepass")[:limit].decode(errors="replace")


def _unescaped(escape: re.Match[str]) -> str:
    return {"n": "\n", "r": "\r"}.get(escape[1], escape[1])


def _value(text: str, at: int) -> tuple[str, int]:
    """Read an option's value; return it, and where the next option begins. A doubled comma is a comma."""
    match = _VALUE.match(text, at)
    assert match is not None, "the pattern matches the empty string"
    return match[1].replace(",,", ","), match.end()


def read_pairs(text: str, implied: str | None) -> Iterator[tuple[str, str]]:
    """``get_opt_name_value``: yield every option in order.

    ``implied`` names a first option without one; later ones without a value are flags.
    """
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


def read_options(text: str) -> dict[str, str]:
    """``opts_parse``: the last value of an option wins, except for the id, where the first does.

    The id is parsed without an implied option (``opts_parse_id``): in ``id,driver=e1000`` it is ``on``.
    """
    options = {key: value for key, value in read_pairs(text, "driver") if key != "id"}
    name = next((value for key, value in read_pairs(text, None) if key == "id"), None)
    if name is None:
        return options
    if not _ID.fullmatch(name):
        raise LineError("Parameter 'id' expects an identifier")
    return {"id": name} | options


def read_keyval(text: str) -> Iterator[tuple[str, str]]:
    """``keyval_parse``: no flags, and no doubled commas in the first value if its key is implied.

    Keys that are too long or contradict each other are not detected here; QEMU refuses them.
    """
    at = 0
    while at < len(text):
        first = at == 0
        stop = _end(_KEY, text, at)
        key = text[at:stop]
        if text.startswith("=", stop) and is_keyval_key(key):
            value, at = _value(text, stop + 1)
        elif text.startswith("=", stop) or not key:
            raise LineError(f"Invalid parameter '{key}'")
        elif key in HELP:
            raise LineError("a request for help")
        elif first:
            key, value, at = "qom-type", key, stop + 1
        else:
            raise LineError(f"Expected '=' after parameter '{key}'")
        yield key, value
