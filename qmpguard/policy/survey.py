"""The survey: queries QEMU for the facts that the rules need, and only for those.

It does no I/O: queries are yielded and answers sent in (`bursts`). So the gate, ``qmpguard check`` and the tests drive
the same survey, each over its own connection. All facts that the rules are known to need are queried in one burst. QEMU
is sent no query that is not in this file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qmpguard.policy.blocks import listed_vfio_nodes
from qmpguard.policy.bursts import Missing, Query, Unexpected, together
from qmpguard.policy.device import Device, is_failover_standby, is_vfio, is_virtio_net
from qmpguard.policy.facts import Fact, Facts, Unknown
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.migration import DANGEROUS, Migration, Progress
from qmpguard.policy.operations import ChangeMonitor, SetProperty
from qmpguard.policy.schema import read_schema
from qmpguard.policy.sockets import listening_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from qmpguard.policy.bursts import Answer, Questions
    from qmpguard.policy.facts import Property
    from qmpguard.policy.operations import Operation
    from qmpguard.policy.policy import Policy
    from qmpguard.policy.verdict import Verdict
    from qmpguard.wire.json import Value

PERIPHERAL = "/machine/peripheral"
ANONYMOUS = "/machine/peripheral-anon"


def inquire(
    operation: Operation,
    policy: Policy,
    facts: Facts = Facts(),  # noqa: B008  -- it is frozen
) -> Generator[tuple[Query, ...], tuple[Answer, ...], tuple[Verdict, Facts]]:
    """Judge an operation: yield bursts of queries, take their answers in the same order, and return the verdict.

    ``facts`` are known before: those that the guard remembers. Returns the verdict with the facts that it is based on.
    Raises `Unexpected` where an answer cannot be read.
    """
    while True:
        try:
            return judge(operation, Machine(facts), policy), facts
        except Unknown as unknown:
            lacking = unknown
        asking = [ASK[fact](facts, operation, policy) for fact in lacking.facts]
        facts = yield from together(facts, [*asking, _properties(facts, lacking.properties)])


def observe(policy: Policy, facts: Facts = Facts(), wanted: tuple[Fact, ...] = ()) -> Questions:  # noqa: B008
    """Query some facts, whether or not a rule needs them: for the drift watch and for reports."""
    for fact in wanted:
        facts = yield from ASK[fact](facts, None, policy)
    return facts


def _capabilities(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    (answer,) = yield (Query("query-migrate-capabilities", optional=True),)
    states = _states(answer)
    if not states.keys() >= DANGEROUS:  # in a coming QEMU they are parameters, and deprecated ones may be absent
        facts = yield from _parameters(facts, operation, policy)
        states |= {name: value for name, value in (facts.parameters or {}).items() if isinstance(value, bool)}
    if not states.keys() >= DANGEROUS:
        raise Unexpected(f"query-migrate-capabilities: {' or '.join(sorted(DANGEROUS - states.keys()))} is missing")
    return replace(facts, capabilities=frozenset(name for name, state in states.items() if state))


def _states(answer: Answer) -> dict[str, bool]:
    states = {}
    for entry in () if isinstance(answer, Missing) else _list(answer):
        match entry:
            case {"capability": str(name), "state": bool(state)}:
                states[name] = state
            case _:
                raise Unexpected("query-migrate-capabilities")
    return states


def _devices(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    folders = (PERIPHERAL, ANONYMOUS)
    answers = yield tuple(Query("qom-list", (("path", folder),)) for folder in folders)
    found = [
        device for folder, answer in zip(folders, answers, strict=True) for device in _children(folder, _list(answer))
    ]
    found.sort(key=lambda device: device.path)
    return replace(
        facts,
        devices=tuple(d for d in found if is_vfio(d.driver, policy.extra_types)),
        others=tuple(d for d in found if not is_vfio(d.driver, policy.extra_types)),
    )


def _children(folder: str, entries: list[Value]) -> Generator[Device]:
    for entry in entries:
        match entry:
            case {"name": str(name), "type": str(kind)}:
                if kind.startswith("child<"):
                    yield Device(f"{folder}/{name}", kind[6:-1], name if folder == PERIPHERAL else None)
            case _:
                raise Unexpected("qom-list")


def _properties(facts: Facts, wanted: tuple[Property, ...]) -> Questions:
    """Query properties of VFIO devices. One that a device does not have is None, and so is an empty one."""
    if not wanted:
        return facts
    answers = yield tuple(_get(path, name) for path, name in wanted)
    found = {each: a if a and isinstance(a, str) else None for each, a in zip(wanted, answers, strict=True)}
    properties = {**facts.properties, **found}
    pairs = [(device.id, properties.get((device.path, "failover_pair_id"))) for device in facts.devices or ()]
    return replace(facts, properties=properties, hidden=_still_hidden(facts, pairs))


def _still_hidden(facts: Facts, shown: list[tuple[str | None, str | None]]) -> tuple[Device, ...]:
    """Return the remembered primaries that no device is: ``shown`` are the devices' ids and failover partners."""
    return tuple(device for device in facts.hidden if (device.id, device.failover_pair_id) not in shown)


_PROPERTIES = ("host", "sysfsdev", "failover_pair_id")


def _details(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    devices = facts.devices or ()
    answers = yield tuple(_get(device.path, name) for device in devices for name in _PROPERTIES)
    step = len(_PROPERTIES)
    detailed = [_with_details(device, answers[i * step : (i + 1) * step]) for i, device in enumerate(devices)]
    pairs = [(device.id, device.failover_pair_id) for device in detailed]
    return replace(facts, details=tuple(detailed), hidden=_still_hidden(facts, pairs))


def _with_details(device: Device, answers: tuple[Answer, ...]) -> Device:
    # QEMU answers "" both for an empty failover_pair_id and for one that is not set
    host, sysfsdev, pair = (a if isinstance(a, str) else None for a in answers)
    return replace(device, host=host, sysfsdev=sysfsdev, failover_pair_id=pair or None)


def _standbys(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    candidates = [device for device in facts.others or () if is_failover_standby(device.driver) and device.id]
    answers = (yield tuple(_get(device.path, "failover") for device in candidates)) if candidates else ()
    on = (device.id for device, answer in zip(candidates, answers, strict=True) if answer is True and device.id)
    ids = frozenset(on)
    # QEMU removes a hidden primary together with its standby
    hidden = tuple(device for device in facts.hidden if device.failover_pair_id in ids)
    return replace(facts, standbys=ids, hidden=hidden, negotiated=facts.negotiated & ids)


def _runstate(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    (answer,) = yield (Query("query-status"),)
    match answer:
        case {"status": str(status)}:
            return replace(facts, runstate=status)
        case _:
            raise Unexpected("query-status")


def _migration(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    (answer,) = yield (Query("query-migrate"),)
    if not isinstance(answer, dict):
        raise Unexpected("query-migrate")
    status, blockers = answer.get("status", "none"), answer.get("blocked-reasons", [])
    if not isinstance(status, str) or not isinstance(blockers, list):
        raise Unexpected("query-migrate")
    progress = _progress(answer.get("ram"), answer.get("vfio"))
    return replace(facts, migration=Migration(status, tuple(str(blocker) for blocker in blockers), progress))


def _progress(ram: Value, vfio: Value) -> Progress | None:
    """Return the progress of a migration (MigrationInfo). No rule needs it, so an unreadable part is left out."""
    sent, total, remaining = (_bytes(ram, name) for name in ("transferred", "total", "remaining"))
    share = _bytes(vfio, "transferred")
    return None if sent is total is share is None else Progress(sent or 0, total or 0, share, remaining or 0)


def _bytes(members: Value, name: str) -> int | None:
    amount = members.get(name) if isinstance(members, dict) else None
    return amount if isinstance(amount, int) else None


def _parameters(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    (answer,) = yield (Query("query-migrate-parameters"),)
    if not isinstance(answer, dict):
        raise Unexpected("query-migrate-parameters")
    return replace(facts, parameters=answer)


def _shared_memory(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    (answer,) = yield (Query("query-memdev"),)
    shared = []
    for entry in _list(answer):
        match entry:
            case {"share": bool(share), **rest}:  # the id is optional
                shared += [str(rest.get("id") or "memory")] if share else []
            case _:
                raise Unexpected("query-memdev")
    return replace(facts, shared_memory=tuple(shared))


def _blocks(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    # flat: QEMU does not repeat the backing images under each node
    (answer,) = yield (Query("query-named-block-nodes", (("flat", True),)),)
    try:
        return replace(facts, blocks=() if isinstance(answer, Missing) else listed_vfio_nodes(answer))
    except ValueError as error:
        raise Unexpected(f"query-named-block-nodes: {error}") from error


def _nics(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    candidates = [device for device in facts.others or () if is_virtio_net(device.driver)]
    answers = (yield tuple(_get(device.path, "netdev") for device in candidates)) if candidates else ()
    pairs = zip(candidates, answers, strict=True)
    return replace(facts, nics=tuple((answer, device.label) for device, answer in pairs if isinstance(answer, str)))


def _sockets(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    (answer,) = yield (Query("query-chardev"),)
    try:
        return replace(facts, sockets=frozenset() if isinstance(answer, Missing) else listening_sockets(answer))
    except ValueError as error:
        raise Unexpected(f"query-chardev: {error}") from error


def _type(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    assert isinstance(operation, SetProperty | ChangeMonitor)
    path = operation.path if isinstance(operation, ChangeMonitor) else operation.change.path
    (answer,) = yield (_get(path, "type"),)
    # without such an object QEMU itself refuses the request
    return replace(facts, type=answer if isinstance(answer, str) else "")


def _commands(facts: Facts, operation: Operation | None, policy: Policy) -> Questions:
    (answer,) = yield (Query("query-qmp-schema"),)
    try:
        return replace(facts, commands=read_schema(answer).commands)
    except ValueError as error:
        raise Unexpected(f"query-qmp-schema: {error}") from error


def _get(path: str, name: str) -> Query:
    return Query("qom-get", (("path", path), ("property", name)), optional=True)


def _list(answer: Answer) -> list[Value]:
    if not isinstance(answer, list):
        raise Unexpected("a list was expected")
    return answer


#: the queries of each fact
ASK: Mapping[Fact, Callable[[Facts, Operation | None, Policy], Questions]] = {
    Fact.CAPABILITIES: _capabilities,
    Fact.DEVICES: _devices,
    Fact.DETAILS: _details,
    Fact.STANDBYS: _standbys,
    Fact.RUNSTATE: _runstate,
    Fact.MIGRATION: _migration,
    Fact.TYPE: _type,
    Fact.COMMANDS: _commands,
    Fact.PARAMETERS: _parameters,
    Fact.SHARED: _shared_memory,
    Fact.BLOCKS: _blocks,
    Fact.SOCKETS: _sockets,
    Fact.NICS: _nics,
}
