"""The schemas: each kind of QEMU is read once, whichever VM asks, and what no reader knows is warned of."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Answer, Query, Unexpected
from qmpguard.proxy.judging import schemas as module
from qmpguard.proxy.judging.schemas import Schemas, VmSchema
from qmpguard.tasks import Tasks
from qmpguard.wire.qemu_messages import Greeting

#: a schema with two commands; no reader knows the second argument of `migrate`
SCHEMA = [
    {"name": "migrate", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
    {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "0", "meta-type": "object", "members": []},
    {"name": "1", "meta-type": "object", "members": [{"name": "uri", "type": "s"}, {"name": "new", "type": "s"}]},
]


class Qemu:
    """Answers as a QEMU of one target would, and remembers what it was asked."""

    def __init__(self, target: Any = "x86_64", schema: Any = SCHEMA) -> None:
        self.answers: dict[str, Any] = {
            "query-target": {"arch": target} if isinstance(target, str) else target,
            "query-qmp-schema": schema,
        }
        self.asked: list[str] = []
        self.optional: set[str] = set()  # what it may not have

    async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        self.asked += [query.command for query in queries]
        self.optional |= {query.command for query in queries if query.optional}
        answers = [self.answers[query.command] for query in queries]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return tuple(answers)


def greeting(version: str = "10.0.2", package: str = "") -> Greeting:
    major, minor, micro = map(int, version.split("."))
    told = {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": package}
    return Greeting(json.dumps({"QMP": {"version": told, "capabilities": []}}).encode())


async def test_a_schema_is_read_once_whichever_vm_asks() -> None:
    schemas, first, second = Schemas(), Qemu(), Qemu()
    schema = await schemas.learn(greeting(), first)
    assert schema.commands == {"migrate", "query-status"}
    assert await schemas.learn(greeting(), second) is schema
    assert first.asked == ["query-target", "query-qmp-schema"]
    assert second.asked == ["query-target"]
    assert first.optional == {"query-target"}, "a storage daemon has none"


@pytest.mark.parametrize(
    ("other", "target"),
    [(greeting("10.0.3"), "x86_64"), (greeting(package="Debian"), "x86_64"), (greeting(), "aarch64"), (greeting(), {})],
    ids=["version", "package", "target", "no target"],
)
async def test_another_kind_of_qemu_has_a_schema_of_its_own(other: Greeting, target: Any) -> None:
    schemas = Schemas()
    await schemas.learn(greeting(), Qemu())
    qemu = Qemu(target, SCHEMA[1:3])
    assert (await schemas.learn(other, qemu)).commands == {"query-status"}
    assert "query-qmp-schema" in qemu.asked


async def test_an_argument_that_no_reader_knows_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    schemas = Schemas()
    for _ in range(2):
        await schemas.learn(greeting(package="v10"), Qemu())
    (record,) = caplog.records
    assert "QEMU 10.0.2 v10: migrate has an argument 'new' that qmpguard does not know" in record.getMessage()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({}, Unexpected),
        ([5], Unexpected),
        (UnavailableError("QEMU went away"), UnavailableError),
    ],
    ids=["an object", "a list of something else", "no answer"],
)
async def test_what_cannot_be_read_is_not_kept(answer: Any, error: type[Exception]) -> None:
    schemas = Schemas()
    with pytest.raises(error):
        await schemas.learn(greeting(), Qemu(schema=answer))
    assert (await schemas.learn(greeting(), Qemu())).commands == {"migrate", "query-status"}


async def test_no_more_schemas_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SCHEMAS", 2)
    schemas = Schemas()
    for micro in range(3):
        await schemas.learn(greeting(f"10.0.{micro}"), Qemu())
    again, still = Qemu(), Qemu()
    await schemas.learn(greeting("10.0.2"), still)
    assert still.asked == ["query-target"]
    await schemas.learn(greeting("10.0.0"), again)
    assert again.asked == ["query-target", "query-qmp-schema"], "the oldest made room"


async def test_a_qemu_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Qemu):
        async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(module, "TIMEOUT", 0.001)
    with pytest.raises(TimeoutError):
        await Schemas().learn(greeting(), Silent())


# one VM's schema


def state(schema: VmSchema) -> tuple[object, bool]:
    """Return the commands that are known, and whether the schema is wanted."""
    return schema.commands, schema.is_wanted


async def test_a_vm_wants_its_schema_from_its_first_link_until_it_was_read() -> None:
    schema = VmSchema("vm", Schemas())
    assert state(schema) == (None, False)
    schema.connect(greeting(), Qemu())
    assert state(schema) == (None, True)
    await schema.learn()
    assert state(schema) == ({"migrate", "query-status"}, False)
    schema.disconnect()
    schema.connect(greeting(), Qemu())
    assert state(schema) == ({"migrate", "query-status"}, False), "the next link may be to the same QEMU"
    schema.forget()
    assert state(schema) == (None, False)


async def test_without_a_link_there_is_no_schema() -> None:
    schema = VmSchema("vm", Schemas())
    schema.connect(greeting(), Qemu())
    schema.disconnect()
    assert not schema.is_wanted
    with pytest.raises(UnavailableError, match="QEMU went away"):
        await schema.learn()


async def test_what_was_read_of_a_link_that_is_gone_is_not_this_vms() -> None:
    schema = VmSchema("vm", Schemas())

    class Replaced(Qemu):
        async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
            schema.connect(greeting("10.1.0"), Qemu())
            return await super().ask(queries)

    schema.connect(greeting(), Replaced())
    await schema.learn()
    assert schema.known is None
    assert schema.is_wanted


@pytest.mark.parametrize(
    ("answer", "known", "wanted"), [(SCHEMA, True, False), ({}, False, True)], ids=["a schema", "none"]
)
async def test_a_task_reads_it_and_where_that_fails_it_is_wanted_again(
    answer: Any, *, known: bool, wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    schema = VmSchema("vm", Schemas())
    schema.connect(greeting(), Qemu(schema=answer))
    async with Tasks() as tasks:
        schema.learn_soon(tasks)
        assert not schema.is_wanted, "one task is enough"
    assert (schema.known is not None, schema.is_wanted) == (known, wanted)
    assert ("the schema was not read" in caplog.text) is not known
