"""A command's arguments checked by QEMU's schema, with QEMU's errors (qapi/qobject-input-visitor.c).

The schema is what `query-qmp-schema` returns (docs/devel/qapi-code-gen.rst, "Client JSON Protocol introspection").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpguard.wire.json import Number

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qmpguard.recording.lines import Members
    from qmpguard.wire.json import Value

#: commands that take more arguments than the schema has: the properties of a device
OPEN = frozenset({"device_add"})
#: types of JSON by the names of the schema, and as QEMU calls them in errors
_WORDS = {"string": "string", "int": "integer", "number": "number", "boolean": "boolean"}


class CommandTypes:
    """The commands of one schema, and the types of their arguments."""

    def __init__(self, schema: list[Any]) -> None:
        self._entities: Mapping[str, Any] = {entry["name"]: entry for entry in schema}

    def knows(self, command: str) -> bool:
        """Say whether QEMU has a command."""
        return bool(self._entities.get(command, {}).get("meta-type") == "command")

    def allows_oob(self, command: str) -> bool:
        """Say whether a command may be sent out-of-band."""
        return bool(self._entities[command].get("allow-oob"))

    def error(self, command: str, arguments: Members) -> str:
        """Return QEMU's error for a command's arguments; empty where they are valid."""
        kind = self._entities[command]["arg-type"]
        return next(self._members(kind, arguments, "", closed=command not in OPEN), "")

    def default(self, command: str) -> Value:
        """Return the emptiest value that a command may return; None where its type has no empty value."""
        entity = self._entities[self._entities[command]["ret-type"]]
        if entity["meta-type"] == "array":
            return []
        if entity["meta-type"] == "object" and all("default" in member for member in entity["members"]):
            return {}
        return None

    def _members(self, kind: str, value: Members, at: str, *, closed: bool) -> Iterator[str]:
        members = list(self._entities[kind]["members"])
        tag = self._entities[kind].get("tag")
        if tag is not None and (case := self._case(kind, value.get(tag))):
            members += self._entities[case]["members"]
        for member in members:
            name = member["name"]
            if name in value and (closed or at or isinstance(value[name], str)):
                yield from self._value(member["type"], value[name], f"{at}{name}")
            elif "default" not in member:
                yield f"Parameter '{at}{name}' is missing"
        known = {member["name"] for member in members}
        yield from (f"Parameter '{at}{name}' is unexpected" for name in value if closed and name not in known)

    def _case(self, kind: str, value: Value) -> str:
        cases = self._entities[kind].get("variants", [])
        return next((case["type"] for case in cases if case["case"] == value), "")

    def _value(self, kind: str, value: Value, at: str) -> Iterator[str]:
        entity = self._entities[kind]
        match entity["meta-type"], value:
            case "builtin", _:
                if not _fits(entity["json-type"], value):
                    yield _wrong(at, _WORDS.get(entity["json-type"], entity["json-type"]))
            case "enum", str():
                if value not in entity["values"]:
                    yield f"Parameter '{_own_name(at)}' does not accept value '{value}'"
            case "enum", _:
                yield _wrong(at, "string")
            case "array", list():
                for i, element in enumerate(value):
                    yield from self._value(entity["element-type"], element, f"{at}[{i}]")
            case "object", dict():
                yield from self._members(kind, value, f"{at}.", closed=True)
            case "alternate", _:
                if all(any(self._value(member["type"], value, at)) for member in entity["members"]):
                    yield _wrong(at, "another")
            case other, _:
                yield _wrong(at, other)


def _wrong(at: str, expected: str) -> str:
    return f"Invalid parameter type for '{at}', expected: {expected}"


def _own_name(at: str) -> str:
    """Return a value's own name: in this error QEMU leaves out where it is, and an element of a list has none."""
    return "null" if at.endswith("]") else at.rpartition(".")[2]


def _fits(kind: str, value: Value) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | Number) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case _:
            return True
