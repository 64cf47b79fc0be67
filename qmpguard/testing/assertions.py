"""Assertions about replies: the guard's refusals, and whether a client is told the same by QEMU and by the guard."""

from __future__ import annotations

import json
import re
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: the guard's mark in an error: docs/stability.md
_MARK = re.compile(r"qmpguard: rule ([\w-]+)")
#: what differs between two QEMUs that are alike: times, the numbers of threads and descriptors, and paths of sockets
_OWN = re.compile(r"""(["'](?:timestamp|thread-id|fd|pid|filename)["']: )(\d+|\{[^}]*\}|"[^"]*")""")


def refusal_of(reply: Mapping[str, object] | BaseException) -> str | None:
    """Return the rule by which the guard has refused a command; None where it has not.

    ``reply`` is QMP's reply as a mapping, or the exception that a client has made of it.
    """
    found = _MARK.search(_text(reply))
    return None if found is None else found[1]


def assert_refused(reply: Mapping[str, object] | BaseException, rule: str) -> None:
    """Raise `AssertionError` unless the guard has refused a command by this rule."""
    found = refusal_of(reply)
    assert found == rule, f"refused by {found}, not by {rule}" if found else f"not refused: {reply!r}"


def _text(reply: Mapping[str, object] | BaseException) -> str:
    if isinstance(reply, BaseException):
        return str(reply)
    error, returned = reply.get("error"), reply.get("return")
    if isinstance(error, dict):
        return str(error.get("desc", ""))
    # a line of HMP fails with a text
    return returned if isinstance(returned, str) and returned.startswith("Error") else ""


def differences(direct: object, guarded: object) -> list[tuple[str, str]]:
    """Return where a client was told another thing by the guard than by QEMU, apart from refusals of the guard."""
    pairs = zip_longest(_parts(direct), _parts(guarded), fillvalue="(nothing)")
    return [(one, other) for one, other in pairs if one != other and not _MARK.search(other)]


def _parts(told: object) -> list[str]:
    parts = told if isinstance(told, list | tuple) else [told]
    return [_OWN.sub(r"\1(its own)", p if isinstance(p, str) else json.dumps(p, sort_keys=True)) for p in parts]
