"""QEMU's schema, as far as the policy needs it: the commands, and the names of their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpguard.wire.json import Value


#: the migration parameters of QEMU 7.2 to 11.1; a new parameter may be a capability
PARAMETERS = frozenset(
    {
        *("announce-initial", "announce-max", "announce-rounds", "announce-step", "avail-switchover-bandwidth"),
        *("block-bitmap-mapping", "block-incremental", "compress-level", "compress-threads", "compress-wait-thread"),
        *("cpr-exec-command", "cpu-throttle-increment", "cpu-throttle-initial", "cpu-throttle-tailslow"),
        *("decompress-threads", "direct-io", "downtime-limit", "max-bandwidth", "max-cpu-throttle"),
        *("max-postcopy-bandwidth", "mode", "multifd-channels", "multifd-compression", "multifd-qatzip-level"),
        *("multifd-zlib-level", "multifd-zstd-level", "throttle-trigger-threshold", "tls-authz", "tls-creds"),
        *("tls-hostname", "vcpu-dirty-limit", "x-checkpoint-delay", "x-rdma-chunk-size", "x-vcpu-dirty-limit-period"),
        *("xbzrle-cache-size", "zero-page-detection"),
    }
)


#: the migration capabilities of QEMU 7.2 to 11.1; in a coming version they are parameters
CAPABILITIES = frozenset(
    {
        *("auto-converge", "background-snapshot", "block", "compress", "dirty-bitmaps", "dirty-limit", "events"),
        *("late-block-activate", "mapped-ram", "multifd", "pause-before-switchover", "postcopy-blocktime"),
        *("postcopy-preempt", "postcopy-ram", "rdma-pin-all", "release-ram", "return-path", "switchover-ack"),
        *("validate-uuid", "x-colo", "x-ignore-shared", "xbzrle", "zero-blocks", "zero-copy-send"),
    }
)


@dataclass(frozen=True, slots=True)
class Schema:
    """The names of each command's arguments, by command."""

    arguments: Mapping[str, frozenset[str]]
    capabilities: frozenset[str] = frozenset()  # of migrations; in a coming version they are parameters

    @property
    def commands(self) -> frozenset[str]:
        """Every command that QEMU knows."""
        return frozenset(self.arguments)


def read_schema(answer: object) -> Schema:
    """Return the schema in the answer to ``query-qmp-schema`` (QEMU qapi/introspect.json). Raises `ValueError`."""
    if not isinstance(answer, list):
        raise ValueError("the schema is not a list")
    objects: dict[str, dict[str, Value]] = {}
    for entity in answer:
        match entity:
            case {"name": str(name), "meta-type": str()}:
                objects[name] = entity
            case _:
                raise ValueError("an entity of the schema has no name or no meta-type")
    arguments = {
        name: frozenset(_members(str(entity.get("arg-type")), objects))
        for name, entity in objects.items()
        if entity["meta-type"] == "command"
    }
    return Schema(arguments, _capabilities(objects))


def _capabilities(objects: Mapping[str, dict[str, Value]]) -> frozenset[str]:
    """Return the values of the enumeration in `migrate-set-capabilities`; empty without that command."""
    found = objects.get("migrate-set-capabilities", {}).get("arg-type")
    for member in ("capabilities", "capability"):
        found = _type_of(member, str(found), objects)
        found = objects.get(str(found), {}).get("element-type", found)
    values = objects.get(str(found), {}).get("values")
    return frozenset(str(value) for value in values) if isinstance(values, list) else frozenset()


def _type_of(member: str, name: str, objects: Mapping[str, dict[str, Value]]) -> Value:
    members = objects.get(name, {}).get("members")
    for one in members if isinstance(members, list) else ():
        match one:
            case {"name": str(called), "type": str(kind)} if called == member:
                return kind
            case _:
                pass
    return None


def _members(name: str, objects: Mapping[str, dict[str, Value]]) -> Iterator[str]:
    """Yield the names of an object's members, and of its variants'."""
    entity = objects.get(name, {})
    members, variants = entity.get("members"), entity.get("variants")
    for member in members if isinstance(members, list) else ():
        match member:
            case {"name": str(member_name)}:
                yield member_name
            case _:
                raise ValueError(f"a member of type {name} has no name")
    for variant in variants if isinstance(variants, list) else ():
        match variant:
            case {"type": str(type_name)} if type_name != name:
                yield from _members(type_name, {k: v for k, v in objects.items() if k != name})
            case _:
                raise ValueError(f"a variant of type {name} has no type")
