"""Where the guard does not answer as QEMU does: what, and why. There is nothing else; `docs/conformance.md` prints it.

A difference explains a pair of messages, what QEMU sent and what the guard sent in its place, or nothing that a
transcript could show.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Version = tuple[int, ...]

_PARSE_ERROR = re.compile(
    r'\{"error": \{"class": "GenericError", "desc": "(\d+:\d+: )?JSON (parse error, .*|[a-z ]+ limit exceeded)"\}\}'
)
_UNEXPECTED = re.compile(r"Parameter '.*' is unexpected")
_ID = re.compile(r'(?<=\}, )"id": .*(?=\}$)|(?<=^\{)"id": .*(?=, "return": )')
_STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[-+.\deE]*')


@dataclass(frozen=True)
class Difference:
    """One difference; ``since``: the first QEMU that shows it.

    ``explains`` is given QEMU's message and the guard's; ``ignores`` any message, which then stands in no pair.
    """

    what: str
    why: str
    since: Version = ()
    explains: Callable[[str, str], bool] = lambda straight, guarded: False
    ignores: Callable[[str], bool] = lambda message: False


def _is_parse_error(message: str) -> bool:
    return _PARSE_ERROR.fullmatch(message) is not None


def _infinite(straight: str, guarded: str) -> bool:
    return straight == _with_infinities(guarded)


def _with_infinities(message: str) -> str:
    return _STRING_OR_NUMBER.sub(_as_double, message)


def _as_double(match: re.Match[str]) -> str:
    """What QEMU prints for a number that no double can hold."""
    text = match[0]
    if text.startswith('"') or not math.isinf(float(text)):
        return text
    return "-inf" if text.startswith("-") else "inf"


def _which_is_unexpected(straight: str, guarded: str) -> bool:
    return straight != guarded and _UNEXPECTED.sub("", straight) == _UNEXPECTED.sub("", guarded)


def _unreadable(straight: str, guarded: str) -> bool:
    refused = "(qmpguard: rule unverified;" in guarded
    return refused and '"error"' in straight and _id(straight) == _with_infinities(_id(guarded))


def _id(message: str) -> str:
    match = _ID.search(message)
    return match[0] if match else ""


DIFFERENCES = (
    Difference(
        "JSON parse errors: QEMU 11.1 adds the position in the input (`1:32: `), words some errors differently, "
        "and reports an error at once. QEMU 7.2 to 11.0 report it when the message's brackets balance. The guard "
        "uses the wording and order of QEMU 7.2 to 11.0, whichever version is connected. A request after the error "
        "is executed or not as by the QEMU that is connected.",
        "People who type JSON read these words; no tool is known to parse them.",
        since=(11, 1),
        ignores=_is_parse_error,
    ),
    Difference(
        "An `id` with a number beyond the range of doubles, as `1e400`, comes back as it was sent.",
        "QEMU sends `inf`, which is no JSON; a client could not read the reply.",
        explains=_infinite,
    ),
    Difference(
        "If `qmp_capabilities` has several unknown arguments, another one of them may be named in the error.",
        "QEMU names one by the order of a hash table inside GLib.",
        explains=_which_is_unexpected,
    ),
    Difference(
        "A command that is judged, with arguments that cannot be read, is refused by rule `unverified`; "
        "QEMU words that error otherwise.",
        "Arguments that cannot be read cannot be judged, and the guard forwards no request that it has not judged.",
        explains=_unreadable,
    ),
    Difference(
        "A message may have 4 MiB of tokens (`max_request`: up to 10), and an error quotes 64 KiB of a stray "
        "token. QEMU reads 64 MiB and quotes all.",
        "No known client needs more, and one client must not fill the memory of all.",
    ),
    Difference(
        "A large request holds up the other clients of its VM while QEMU reads it: byte by byte, some four seconds for "
        "a MiB. Clients with a monitor of their own each wait for QEMU to read theirs.",
        "There is one connection to QEMU, and a message on it cannot be interrupted. `max_request` bounds the wait.",
    ),
    Difference(
        "A client that leaves more than 16 MiB unread is disconnected when there is more for it. "
        "QEMU stops to read that client's requests, and its own memory grows with the events.",
        "One client must not slow another, nor fill the memory of all.",
    ),
    Difference(
        "`getfd` with a name that another connected client holds is refused. "
        "On a monitor of its own each client has its own names.",
        "All clients share one monitor, in which the second descriptor would silently take the place of the first.",
    ),
    Difference(
        "QEMU up to 9.0 closes descriptors of `add-fd` that nothing uses when its last monitor is disconnected. "
        "The guard stays connected, so they stay open until `remove-fd`, as with QEMU 9.1 and later.",
        "The guard never closes what it did not open, and another client may be about to use them.",
    ),
    Difference(
        "A client that has sent its last byte gets every reply whole. QEMU may cut one short that the socket has no "
        "room for, as the schema of 10.0 and later, and send the rest to the next client, before the greeting.",
        "That is a fault of QEMU, and the next client could not read its input.",
    ),
    Difference(
        "With out-of-band, QEMU (7.2 and 11.1 were seen to) aborts at times when a client sends many requests at once: "
        "`handle_qmp_command: Assertion ... QMP_REQ_QUEUE_LEN_MAX`. Behind the guard it does not.",
        "The guard never fills QEMU's queue, so that QEMU reads out-of-band requests at any time, and it answers "
        "malformed requests by itself.",
    ),
    Difference(
        "Clients are served at the same time. QEMU serves one, and lets the next one wait without a greeting.",
        "A tool can be used beside the management.",
    ),
)


def unexplained(straight: Sequence[str], guarded: Sequence[str], version: Version) -> list[tuple[str, str]]:
    """The pairs of messages that differ, QEMU's and the guard's, and that no listed difference explains."""
    shown = [difference for difference in DIFFERENCES if difference.since <= version]

    def compared(messages: Sequence[str]) -> list[str]:
        return [message for message in messages if not any(difference.ignores(message) for difference in shown)]

    return [
        (one, other)
        for one, other in zip_longest(compared(straight), compared(guarded), fillvalue="(nothing)")
        if one != other and not any(difference.explains(one, other) for difference in shown)
    ]
