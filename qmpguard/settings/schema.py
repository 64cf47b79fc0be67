"""The JSON schema of a configuration file, by which editors complete and check it.

It is made by reading samples: the tables that read a file note each key with its reader, its default, and whether it
must be there. A schema cannot say all that `config check` says: that two VMs want the same socket, or a user's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.errors import ConfigError
from qmpguard.policy.combination import Moment
from qmpguard.policy.mode import Mode
from qmpguard.policy.problem import MAX_TEXT
from qmpguard.policy.rules import table
from qmpguard.settings import accounts, combinations, plugins, sections, values
from qmpguard.settings.options import OPTIONS
from qmpguard.settings.read import read_values
from qmpguard.settings.show import toml
from qmpguard.settings.table import DEFAULT, EffectiveValue, Item
from qmpguard.settings.toml_lines import Path

if TYPE_CHECKING:
    from qmpguard.errors import QmpguardError
    from qmpguard.settings.table import Section

Schema: TypeAlias = dict[str, object]

#: the ids of the sample's own rules
_A, _B = "sample-a", "sample-b"
#: one table for each way in which it can be written
_SAMPLES: Mapping[str, object] = {
    "policy": {
        "combination": [
            {"id": _A, "message": "m", "capability": "c"},
            {"id": _B, "message": "m", "parameter": "p", "value": "v"},
        ],
    },
    "vm": [
        {"name": "a", "qemu": "/a", "listen": "/b"},
        {"name": "b", "qemu_listen": "/c", "listen": "/d"},
        {"name": "c", "takeover": "/e"},
    ],
    "admin": {"listen": "/f"},
}
_TEXT: Schema = {"type": "string", "minLength": 1}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_SOCKET: Schema = {"type": "string", "pattern": r"^((unix:)?/.+|tcp:.+:[0-9]+|fd:[0-9]+)$"}
_LINE: Schema = {**_TEXT, "maxLength": MAX_TEXT}
#: what a reader takes, in the words of JSON Schema
_FORMS: Mapping[Callable[[Item], object], Schema] = {
    values.name: {"type": "string", "pattern": r"^[^\s/]+$", "maxLength": values.MAX_NAME},
    values.address: _SOCKET,
    values.listen_address: {"type": "string", "pattern": r"^((unix:)?/.+|tcp:.+:[0-9]+|fd:.+)$"},
    sections.takeover_path: {"type": "string", "pattern": "^(unix:)?/.+$"},
    values.path: {"type": "string", "pattern": "^/"},
    values.flag: {"type": "boolean"},
    values.names: _TEXTS,
    values.file_mode: {"type": "string", "pattern": "^0?[0-7]{3}$"},
    accounts.users: {**_TEXTS, "minItems": 1},
    accounts.groups: {**_TEXTS, "minItems": 1},
    accounts.group: _TEXT,
    plugins.plugins: {**_TEXTS, "uniqueItems": True, "maxItems": plugins.MAX_PLUGINS},
    combinations.rule_id: {"type": "string", "pattern": "^[a-z][a-z0-9-]*$", "maxLength": combinations.MAX_ID},
    combinations.type_globs: {**_TEXTS, "minItems": 1, "maxItems": combinations.MAX_TYPES},
    combinations.setting_name: {"type": "string", "pattern": "^[A-Za-z0-9_.-]+$", "maxLength": combinations.MAX_WORD},
    combinations.setting_value: {"type": ["string", "integer", "boolean"]},
    combinations.moments: {"type": "array", "minItems": 1, "items": {"enum": [moment.value for moment in Moment]}},
    combinations.sentence: _LINE,
}
#: the meaning of keys that are no option of `run`
_MEANINGS: Mapping[Path, str] = {
    ("policy", "plugins"): "rules from installed packages, by the names of their entry points",
    ("policy", "combination", "id"): "the rule's id in refusals, metrics and [policy.rules]",
    ("policy", "combination", "types"): "QOM types, with wildcards (default: every VFIO device)",
    ("policy", "combination", "capability"): "the migration capability that must not be on",
    ("policy", "combination", "parameter"): "the migration parameter that must not have the value",
    ("policy", "combination", "value"): "the value that the parameter must not have",
    ("policy", "combination", "at"): "when it is looked at",
    ("policy", "combination", "mode"): "enforce, warn or off (default: enforce)",
    ("policy", "combination", "message"): "the text of the refusal; {device} is the device's id",
    ("policy", "combination", "fix"): "what the refusal advises",
    **{("policy", "rules", rule): f"{does} (strict: {strict})" for rule, _, strict, does in table()},
    **{tuple(k for k in option.path if isinstance(k, str)): option.help for option in OPTIONS},
}


#: the rules of a configuration's own are not known here
_OPEN: Mapping[Path, Schema] = {("policy", "rules"): {"enum": [mode.value for mode in Mode]}}


def schema() -> Schema:
    """Return the schema, in the words of JSON Schema's draft 7, which every editor knows."""
    tables: dict[Path, list[Section]] = {}
    for section in read_values(_Sample(), _SAMPLES).report:
        tables.setdefault(_names(section.path), []).append(section)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "qmpguard",
        **_table(tables, ()),
        "required": ["vm"],
    }


class _Sample:
    """The origin of the samples, which have no place and no faults."""

    def item(self, path: Path, value: object) -> Item:
        return Item(value, "sample", "", str(path), ConfigError)

    def missing(self, path: Path) -> QmpguardError:
        return ConfigError(str(path))

    def called(self, path: Path) -> str:
        return str(path)


def _names(path: Path) -> Path:
    return tuple(key for key in path if isinstance(key, str))


def _table(tables: Mapping[Path, list[Section]], path: Path) -> Schema:
    """Return the schema of a table, with the tables in it."""
    found = tables[path]
    keys = [value for section in found for value in section.values if value.key not in (_A, _B)]
    properties = {value.key: _key((*path, value.key), value) for value in keys}
    for inner in tables:
        if inner and inner[:-1] == path:
            properties[str(inner[-1])] = _inner(tables, inner)
    if path == ("vm",):
        properties["policy"] = {"$ref": "#/properties/policy"}
    more = {"properties": properties, "additionalProperties": _OPEN.get(path, False)}
    return {"type": "object", **more, **_needs([{v.key for v in section.values if v.required} for section in found])}


def _inner(tables: Mapping[Path, list[Section]], path: Path) -> Schema:
    is_row = isinstance(tables[path][0].path[-1], int)
    return {"type": "array", "minItems": 1, "items": _table(tables, path)} if is_row else _table(tables, path)


def _needs(ways: Sequence[set[str]]) -> Schema:
    """Return which keys must be there, and where there are several ways, that those of two ways exclude each other."""
    every, common = set().union(*ways), set.intersection(*ways)
    needs: Schema = {"required": sorted(common)} if common else {}
    one_of = [
        {"required": sorted(way - common), "properties": dict.fromkeys(sorted(every - way), False)} for way in ways
    ]
    return {**needs, "oneOf": one_of} if every != common else needs


def _key(path: Path, value: EffectiveValue) -> Schema:
    default = {"default": json.loads(toml(value))} if value.origin == DEFAULT and value.value is not None else {}
    return {"description": _MEANINGS[path], **_form(value.read), **default}


def _form(read: Callable[[Item], object]) -> Schema:
    match read:
        case values.Choice(members):
            return {"enum": [member.value for member in members]}
        case values.Seconds(low, high, zero):
            return {"type": "number", "minimum" if zero else "exclusiveMinimum": low, "maximum": high}
        case values.Count(low, high):
            return {"type": "integer", "minimum": low, "maximum": high}
        case _:
            return _FORMS[read]
