"""The OpenAPI document of `routes.py` and `serialize.py`. A test runs schemathesis against it."""

from __future__ import annotations

from typing import Any, TypeAlias

from qmpguard.policy.facts import Fact
from qmpguard.policy.forecast import NOW, WAYS
from qmpguard.version import __version__

Schema: TypeAlias = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_MAYBE: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_MAYBE_COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "number", "description": "seconds since the epoch"}
_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{1,16}-[0-9]{1,15}$"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_NATIVE: Schema = {"enum": ["yes", "no", "unknown"], "description": "whether QEMU itself would refuse"}
_MODE: Schema = {"enum": ["enforce", "warn", "off"]}


def _object(**members: Schema) -> Schema:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _list(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_WHO = {"number": _COUNT, "pid": _MAYBE_COUNT, "uid": _MAYBE_COUNT, "gid": _MAYBE_COUNT}
_ENTRY = {"id": _ID, "time": _TIME, "vm": _TEXT}

SCHEMAS: dict[str, Schema] = {
    "Error": _object(error=_TEXT),
    "Health": _object(status={"const": "ok"}),
    "Readiness": {
        "type": "object",
        "properties": {"ready": _FLAG, "reasons": _TEXTS, "vms": _list("VmReadiness")},
        "required": ["ready", "reasons"],
        "additionalProperties": False,
    },
    "VmReadiness": _object(name=_TEXT, ready=_FLAG, reasons=_TEXTS, notes=_TEXTS),
    "Peer": _object(**_WHO),
    "Client": _object(
        **_WHO,
        state={"enum": ["waiting for QEMU", "negotiating", "commands", "closed"]},
        since=_TIME,
        outstanding=_COUNT,
    ),
    "Device": _object(
        path=_TEXT, driver=_TEXT, id=_MAYBE, name=_TEXT, host=_MAYBE, sysfsdev=_MAYBE, failover_pair_id=_MAYBE,
        hidden=_FLAG,
    ),
    "Step": _object(time=_TIME, status=_TEXT),
    "Migration": _object(
        status=_TEXT, under_way=_FLAG, steps=_list("Step"),
        ram_sent=_MAYBE_COUNT, ram_remaining=_MAYBE_COUNT, ram_total=_MAYBE_COUNT, vfio_transferred=_MAYBE_COUNT,
        blockers=_TEXTS,
    ),
    "Prospect": _object(
        way={"enum": [NOW, *WAYS]}, answer={"enum": ["yes", "warned", "no", "unknown"]},
        reason=_TEXT, rule=_TEXT, fix=_TEXT, once=_TEXTS, native=_NATIVE,
    ),
    "RuleMode": _object(id=_TEXT, mode=_MODE),
    "Finding": _object(rule=_TEXT, mode=_MODE, reason=_TEXT, fix=_TEXT, devices=_TEXTS, capability=_MAYBE),
    "Decision": _object(
        **_ENTRY, kind={"const": "decision"}, ref=_ID, client=_ref("Peer"), command=_TEXT, hmp=_MAYBE,
        outcome={"enum": ["allowed", "warned", "refused"]}, text=_TEXT, qemu=_TEXT,
        native=_NATIVE, took={"type": "number", "minimum": 0}, findings=_list("Finding"),
    ),
    "Drift": _object(
        **_ENTRY, kind={"const": "drift"}, fact={"enum": [fact.value for fact in Fact]}, before=_TEXTS, after=_TEXTS
    ),
    "Link": _object(**_ENTRY, kind={"const": "link"}, up=_FLAG, what=_TEXT),
    "Event": _object(**_ENTRY, kind={"const": "event"}, name=_TEXT, data={}),
    "Override": _object(rule=_MAYBE, until=_TIME, reason=_TEXT, client=_ref("Peer")),
    "OverrideChange": _object(
        **_ENTRY, kind={"const": "override"}, begun=_FLAG, rule=_MAYBE, until=_TIME, reason=_TEXT, client=_ref("Peer")
    ),
    "Vm": _object(
        name=_TEXT,
        state={"enum": ["ready", "busy", "silent", "down"]},
        ready=_FLAG,
        faults=_TEXTS,
        notes=_TEXTS,
        link=_object(up=_FLAG, since=_TIME, reason=_TEXT),
        qemu=_maybe(_object(version=_TEXT, package=_TEXT)),
        heartbeat={"enum": ["ok", "busy", "silent", "unknown"]},
        clients=_list("Client"),
        seen=_maybe(_TIME),
        run_state=_MAYBE,
        capabilities=_maybe(_TEXTS),
        devices=_maybe(_list("Device")),
        migration=_ref("Migration"),
        may_migrate=_list("Prospect"),
        profile={"enum": ["standard", "strict"]},
        mode=_MODE,
        rules=_list("RuleMode"),
        overrides=_list("Override"),
        drift=_object(count=_COUNT, last=_maybe(_ref("Drift"))),
        counts=_object(**dict.fromkeys(
            ("passed", "allowed", "warned", "refused", "events", "clients", "links"), _COUNT
        )),
    ),
    "Rule": _object(
        id=_TEXT, standard=_MODE, strict=_MODE, summary=_TEXT, modes={"type": "object", "additionalProperties": _MODE}
    ),
}  # fmt: skip


def _answer(description: str, schema: Schema, kind: str = "application/json") -> Schema:
    return {"description": description, "content": {kind: {"schema": schema}}}


def _get(summary: str, good: Schema, *parameters: Schema, public: bool = False, **others: Schema) -> Schema:
    answers = {"200": good, "401": _answer("The token is missing or wrong.", _ref("Error"))}
    answers["403"] = _answer("The Host or Origin header names another host.", _ref("Error"))
    answers |= {name.removeprefix("_"): answer for name, answer in others.items()}
    operation: Schema = {"summary": summary, "responses": answers}
    if parameters:
        operation["parameters"] = list(parameters)
    if public:
        operation["security"] = [{}, {"token": []}]
    return {"get": operation}


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_SINCE = _query(
    "since", "only entries after this one: its id, or its number; an id of another process means all entries",
    {"type": "string", "pattern": "^([0-9a-f]{1,16}-)?[0-9]{1,15}$"},
)  # fmt: skip
_VM = _query("vm", "only entries of this VM", {"type": "string", "minLength": 1})
_BEFORE = _query(
    "before", "only entries before this one: its id, or its number; an id of another process means none",
    {"type": "string", "pattern": "^([0-9a-f]{1,16}-)?[0-9]{1,15}$"},
)  # fmt: skip
_LATEST = _query(
    "latest", "of the past, the latest so many", {"type": "integer", "minimum": 1, "maximum": 1000}
)  # fmt: skip
_LIMIT = _query("limit", "the number of latest decisions", {"type": "integer", "minimum": 1, "maximum": 1000})
_KINDS = {
    **_query(
        "kinds", "only entries of these kinds",
        {
            "type": "array", "items": {"enum": ["decision", "drift", "link", "event", "override"]},
            "minItems": 1, "maxItems": 5,
        },
    ),
    "style": "form",
    "explode": False,
}  # fmt: skip
_NO_VM = _answer("There is no VM of that name.", _ref("Error"))
_ODD = _answer("A parameter cannot be read.", _ref("Error"))


def document() -> Schema:
    """Return the OpenAPI document."""
    ready = _answer("Every VM is ready. Without a token the response has no names.", _ref("Readiness"))
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    vms = _answer("Every VM.", _object(vms=_list("Vm")))
    decisions = _answer("Decisions, oldest first.", _object(decisions=_list("Decision"), last=_ID))
    stream = _answer(
        "Server-sent events. Without an id: `vms`, the names of all VMs, and `vm`, the state of a VM that has changed. "
        "With an id, after which a stream can be resumed: `decision`, `drift`, `link`, `event` and `override`.",
        _TEXT,
        "text/event-stream",
    )
    full = _answer("There are too many streams already.", _ref("Error"))
    return {
        "openapi": "3.1.0",
        "info": {"title": "qmpguard", "version": __version__, "description": "Read-only; answered from memory."},
        "security": [{"token": []}, {}],
        "paths": {
            "/healthz": _get("Liveness of the process", _answer("It is alive.", _ref("Health")), public=True),
            "/readyz": _get(
                "Readiness of every VM",
                ready,
                public=True,
                _503=_answer("At least one VM is not ready.", _ref("Readiness")),
            ),
            "/metrics": _get("Metrics for Prometheus", _answer("Text format.", _TEXT, "text/plain")),
            "/openapi.json": _get("This document", _answer("OpenAPI 3.1.", {"type": "object"}), public=True),
            "/api/v1/vms": _get("Every VM", vms),
            "/api/v1/vms/{name}": _get("One VM", _answer("The VM.", _ref("Vm")), name, _404=_NO_VM),
            "/api/v1/decisions": _get(
                "The latest decisions", decisions, _SINCE, _BEFORE, _VM, _LIMIT, _400=_ODD, _404=_NO_VM
            ),
            "/api/v1/rules": _get("The rules and their modes", _answer("The table.", _object(rules=_list("Rule")))),
            "/api/v1/stream": _get(
                "Entries and states as they change",
                *(stream, _SINCE, _VM, _KINDS, _LATEST),
                _400=_ODD,
                _404=_NO_VM,
                _503=full,
            ),
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
