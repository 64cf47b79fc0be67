"""`[[policy.combination]]`: a site's own combinations of devices with a capability or a parameter that are refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qmpguard.policy.combination import MIGRATION, Capability, Combination, Moment, Parameter
from qmpguard.policy.mode import Mode
from qmpguard.policy.problem import MAX_TEXT
from qmpguard.policy.rules import reserved_ids
from qmpguard.settings import values

if TYPE_CHECKING:
    from qmpguard.policy.combination import Setting
    from qmpguard.settings.table import Item, Table

#: combinations of one policy, and globs of one combination: each is tested at every judged command
MAX_COMBINATIONS, MAX_TYPES = 64, 64
#: characters of an id, which is a label of metrics, and of a QOM type's glob or a setting's name
MAX_ID, MAX_WORD = 64, 128
_ID = re.compile(r"[a-z][a-z0-9-]*")
_GLOB = re.compile(r"[A-Za-z0-9_.,*?\[\]!-]+")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def read_combinations(settings: Table, taken: frozenset[str] = frozenset()) -> tuple[Combination, ...]:
    """Read the combinations of ``[policy]`` or ``[vm.policy]``; ``taken`` are the ids of the policy's other rules."""
    rows: dict[str, Combination] = {}
    for table in settings.tables("combination"):
        item = table.item("id") if table.has("id") else None
        row = _read(table)
        assert item is not None, "without an id, reading has raised"
        if row.id in rows or row.id in taken or row.id in reserved_ids():
            raise item.error("another rule has this id")
        rows[row.id] = row
        if len(rows) > MAX_COMBINATIONS:
            raise item.error(f"a policy has at most {MAX_COMBINATIONS} combinations")
    return tuple(rows.values())


def _read(table: Table) -> Combination:
    identity = table.require("id", rule_id)
    types = table.take("types", type_globs, None)
    setting = _setting(table)
    at = frozenset(table.take("at", moments, MIGRATION))
    mode = table.take("mode", values.choice(Mode), Mode.ENFORCE)
    message, fix = table.require("message", sentence), table.take("fix", sentence, None)
    table.reject_unknown(("capability", "parameter", "value"))
    return Combination(identity, types, setting, at, message, fix or "", mode, mode)


def _setting(table: Table) -> Setting:
    if table.has("capability"):
        if table.has("parameter"):
            raise table.item("parameter").error("it cannot be set beside capability: write a combination for each")
        return Capability(table.require("capability", setting_name))
    if not table.has("parameter"):
        return Capability(table.require("capability", setting_name))  # raises that it is missing
    return Parameter(table.require("parameter", setting_name), table.require("value", setting_value))


def rule_id(item: Item) -> str:
    """Return the id of a rule."""
    text = values.text(item)
    if not _ID.fullmatch(text) or len(text) > MAX_ID:
        raise item.error(f"an id has small letters, digits and '-', and at most {MAX_ID} characters")
    return text


def setting_name(item: Item) -> str:
    """Return the name of a capability or a parameter."""
    text = values.text(item)
    if not _NAME.fullmatch(text) or len(text) > MAX_WORD:
        raise item.error("it is a name as QMP writes it, like x-colo")
    return text


def setting_value(item: Item) -> str:
    """Return a parameter's value as text, as QMP writes it."""
    match item.value:
        case bool(flag):
            return "true" if flag else "false"
        case int(number):
            return str(number)
        case _:
            return sentence(item)


def type_globs(item: Item) -> tuple[str, ...]:
    """Return QOM types, which may have wildcards."""
    globs = values.names(item)
    if not globs or len(globs) > MAX_TYPES or any(not _GLOB.fullmatch(g) or len(g) > MAX_WORD for g in globs):
        raise item.error('it is a list of QOM types, which may have wildcards, as in ["vhost-user-*"]')
    return tuple(sorted(globs))


def moments(item: Item) -> frozenset[Moment]:
    """Return the moments at which a combination is judged."""
    words = values.names(item)
    known = {moment.value: moment for moment in Moment}
    if not words or any(word not in known for word in words):
        raise item.error(f"it is a list of {', '.join(known)}")
    return frozenset(known[word] for word in words)


def sentence(item: Item) -> str:
    """Return one line for people."""
    text = values.text(item)
    if not text.isprintable() or len(text) > MAX_TEXT:
        raise item.error(f"it is one line of at most {MAX_TEXT} characters")
    return text
