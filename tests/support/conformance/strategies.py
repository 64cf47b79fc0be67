"""Scripts that nobody wrote: requests of every kind, spelled in every way, damaged, mixed with junk, cut anywhere."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from qmpguard.wire.framing import Framer, Message
from qmpguard.wire.json import Value
from tests.support.conformance.scripts import NEGOTIATION, REQUESTS, SYNTAX
from tests.support.conformance.twins import END, NEGOTIATE, NEGOTIATE_OOB, Script

#: QEMU 7.2 reads some 100 KB a second
MAX_PIECE = 1500
#: QEMU monitor/qmp.c: QMP_REQ_QUEUE_LEN_MAX
QUEUE = 8

NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
)
CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cs"])
STRINGS = st.text(CHARACTERS, max_size=8).flatmap(
    lambda text: st.sampled_from([json.dumps(text), json.dumps(text, ensure_ascii=False), _single(text)])
)
SCALARS = st.one_of(NUMBERS, STRINGS, st.sampled_from(["null", "true", "false"]))
SPACES = st.sampled_from(["", "", " ", "\n", "\r\n", "\t "])


def _single(text: str) -> str:
    """In single quotes, of which QEMU's dialect knows an escape."""
    inner = json.dumps(text)[1:-1].replace('\\"', '"').replace("'", "\\'")
    return f"'{inner}'"


@st.composite
def _listed(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    comma = draw(SPACES) + "," + draw(SPACES)
    return "[" + comma.join(draw(st.lists(items, max_size=4))) + "]"


@st.composite
def _object(draw: st.DrawFn, items: st.SearchStrategy[str]) -> str:
    members = draw(st.lists(st.tuples(STRINGS, items), max_size=4))
    colon, comma = draw(SPACES) + ":" + draw(SPACES), "," + draw(SPACES)
    return "{" + comma.join(f"{name}{colon}{value}" for name, value in members) + "}"


VALUES = st.recursive(SCALARS, lambda inner: st.one_of(_listed(inner), _object(inner)), max_leaves=8)

CAPABILITIES: dict[str, Any] = {"capabilities": [{"capability": "xbzrle", "state": False}]}
COMMANDS = st.sampled_from(
    [
        ("query-name", None),
        ("query-status", None),
        ("query-version", {}),
        ("query-name", {"a": 1}),
        ("no-such-command", None),
        ("__org.example_x", {}),
        ("qmp_capabilities", None),
        ("qmp_capabilities", {"enable": ["magic"]}),
        ("qom-list", {"path": "/machine"}),
        ("qom-list", {"path": "/é\0"}),
        ("qom-get", {"path": "/machine", "property": "type"}),
        ("getfd", {"fdname": "a"}),
        ("stop", None),
        ("cont", None),
        ("query-yank", None),
        ("device_del", {"id": "nothing"}),
        ("device_add", {"driver": "no-such-device"}),
        ("migrate-set-capabilities", CAPABILITIES),
        ("migrate-set-capabilities", {"capabilities": [{"capability": "no-such", "state": True}]}),
        ("migrate_cancel", None),
        ("migrate-start-postcopy", None),
        ("human-monitor-command", {"command-line": "info name"}),
        ("human-monitor-command", {"command-line": "info status", "cpu-index": 7}),
    ]
)
#: members of requests; which of two bad ones QEMU names is up to a hash table
NAMES = ("foo", "x", "b", "a", "zz", "é", "__x", "control", "id", "arguments", "exec-oob", "execute")
#: commands that events come with
EVENTFUL = ("stop", "cont")
PLAIN_IDS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(CHARACTERS, max_size=8))
OUT_OF_BAND = st.sampled_from(
    [("query-yank", None), ("query-yank", {"a": 1}), ("query-name", None), ("migrate-pause", None), ("nothing", {})]
)


@st.composite
def _request(draw: st.DrawFn) -> bytes:
    command, arguments = draw(COMMANDS)
    members = [("execute", json.dumps(command))]
    if arguments is not None:
        members.append(("arguments", draw(st.sampled_from([json.dumps(arguments), "null", "[]"]))))
        if draw(st.integers(0, 3)):
            members[-1] = ("arguments", json.dumps(arguments))
    if draw(st.booleans()):
        members.append(("id", draw(VALUES)))
    if not draw(st.integers(0, 7)):
        members += draw(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), min_size=1, max_size=4))
    members = draw(st.permutations(members))
    quote, space = draw(st.sampled_from('""\'')), draw(SPACES)
    text = ("," + space).join(f"{quote}{name}{quote}{space}:{space}{value}" for name, value in members)
    return ("{" + text + "}" + space).encode("utf-8", "surrogatepass")


@st.composite
def _out_of_band(draw: st.DrawFn) -> bytes:
    command, arguments = draw(OUT_OF_BAND)
    request: dict[str, Any] = {"exec-oob": command, "id": "oob"}
    if arguments is not None:
        request["arguments"] = arguments
    return json.dumps(request).encode()


#: pieces of the corpus, which was written to hurt
CORPUS = st.sampled_from(
    sorted(
        {
            step
            for script in (*NEGOTIATION, *REQUESTS, *SYNTAX)
            for step in script.steps
            if isinstance(step, bytes) and len(step) <= MAX_PIECE and b"oob" not in step
        }
    )
)
#: what begins anew, opens, closes, or is nothing
JUNK = st.one_of(
    st.sampled_from(
        [b"\xff", b"\x01", b"\0", b"@", b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b",", b":", b"\n", b"-"]
    ),
    st.sampled_from([b"[" * 1025, b"{}", b"[]", b"nul", b"1", b'{"id":', b"]" * 30, b"\xc0\x80", b"\xed\xa0\x80"]),
    st.binary(max_size=6),
)
VALUE = VALUES.map(lambda text: text.encode("utf-8", "surrogatepass"))


@st.composite
def _damaged(draw: st.DrawFn, pieces: st.SearchStrategy[bytes]) -> bytes:
    """A piece of which some bytes are replaced by others."""
    piece = draw(pieces)
    start = draw(st.integers(0, len(piece)))
    end = min(len(piece), start + draw(st.integers(0, 3)))
    return piece[:start] + draw(JUNK) + piece[end:]


@st.composite
def _script(draw: st.DrawFn, first: list[bytes], pieces: st.SearchStrategy[bytes], *, oob: bool) -> Script:
    """Pieces in a row, sent in parts that end anywhere. The first part is whole, where it must be understood."""
    data = b"".join(draw(st.lists(pieces, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return Script("generated", (*first, *filter(None, parts)), oob=oob)


@st.composite
def _dialogue(draw: st.DrawFn) -> Script:
    """Requests in two parts each, the next when the last is answered; whatever is wrong with one, it has one answer."""
    steps: list[bytes | int] = [1, NEGOTIATE, 1]
    for command, arguments in draw(st.lists(COMMANDS.filter(lambda pair: pair[0] not in EVENTFUL), max_size=6)):
        request: dict[str, Any] = {"execute": command, "id": draw(PLAIN_IDS)}
        if arguments is not None:
            request["arguments"] = arguments
        data = json.dumps(request).encode()
        cut = draw(st.integers(0, len(data)))
        steps += [*filter(None, (data[:cut], data[cut:])), 1]
    return Script("dialogue", tuple(steps))


_PLAIN = st.one_of(_request(), _request(), CORPUS, JUNK, VALUE, _damaged(_request()), _damaged(CORPUS))
_MIXED = st.one_of(_request(), _request(), _out_of_band(), _out_of_band(), JUNK, _damaged(_request()))


def _is_safe(script: Script) -> bool:
    """Say whether QEMU survives the script: with out-of-band, eight requests at once make it abort at times.

    QEMU 7.2 and 11.1: ``handle_qmp_command: Assertion `mon->qmp_requests->length < QMP_REQ_QUEUE_LEN_MAX' failed``.
    The guard never has so many under way.
    """
    framer = Framer()
    framer.feed(script.data.removeprefix(NEGOTIATE_OOB) + END)
    items = list(iter(framer.pull_whole, None))
    return sum(not (isinstance(item, Message) and _is_out_of_band(item.value)) for item in items) < QUEUE


def _is_out_of_band(value: Value) -> bool:
    return isinstance(value, dict) and "exec-oob" in value


SCRIPTS = st.one_of(
    _dialogue(),
    _script([], _PLAIN, oob=False),
    _script([NEGOTIATE], _PLAIN, oob=False),
    _script([NEGOTIATE], _PLAIN, oob=False),
    _script([NEGOTIATE_OOB], _MIXED, oob=True).filter(_is_safe),
)
