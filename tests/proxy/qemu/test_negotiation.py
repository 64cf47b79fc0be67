"""The first words with QEMU: a greeting and a negotiation, whatever comes in between; else an absence that says why."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from qmpguard.proxy.listening.peer import process_of
from qmpguard.proxy.qemu import negotiation as module
from qmpguard.proxy.qemu.absence import AbsentError, Cause
from qmpguard.proxy.qemu.negotiation import negotiate
from qmpguard.wire.qemu_messages import Greeting, QemuEvent
from tests.support.guarding import TIMEOUT

GREETING = json.dumps({"QMP": {"version": {"qemu": {"major": 10, "minor": 0, "micro": 2}}, "capabilities": ["oob"]}})
STOP = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP", "data": {}}\r\n'
LATE = b'{"return": {}, "id": 5}\r\n'  # to who was connected before


class Qemu:
    """The other end of the connection, as a script: what it sends, and what it was sent."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    async def say(self, *data: bytes) -> None:
        for each in data:
            await self._loop.sock_sendall(self._sock, each)

    async def hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(await self._loop.sock_recv(self._sock, 65536))
        return heard

    async def greet(self, greeting: str = GREETING) -> dict[str, Any]:
        await self.say(greeting.encode() + b"\r\n")
        return await self.hear()

    def close(self) -> None:
        self._sock.close()


@asynccontextmanager
async def talking(on_silence: Callable[[], None] = lambda: None) -> AsyncGenerator[tuple[Qemu, asyncio.Task[Any]]]:
    """Begin a negotiation with a QEMU that a test plays."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
        task = asyncio.ensure_future(negotiate(ours, on_silence))  # noqa: TID251 -- the block below ends it
        try:
            async with asyncio.timeout(TIMEOUT):
                yield Qemu(theirs), task
        finally:
            task.cancel()


def reply(request: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({**(members or {"return": {}}), "id": request["id"]}).encode() + b"\r\n"


async def test_qemu_is_greeted_and_negotiated_with() -> None:
    async with talking() as (qemu, task):
        request = await qemu.greet()
        assert request["execute"] == "qmp_capabilities"
        assert request["arguments"] == {"enable": ["oob"]}
        await qemu.say(reply(request))
        greeting, events, process = await task
        assert isinstance(greeting, Greeting)
        assert (greeting.version, events) == ("10.0.2", [])
        assert process == process_of(os.getpid(), os.geteuid(), os.getegid()), "the one that wrote it"
        assert process.started is not None


async def test_out_of_band_is_enabled_only_where_it_is_offered() -> None:
    async with talking() as (qemu, task):
        request = await qemu.greet(GREETING.replace('["oob"]', "[]"))
        assert "arguments" not in request
        await qemu.say(reply(request))
        assert (await task)[0].offered == frozenset()


async def test_two_negotiations_are_told_apart_by_their_ids() -> None:
    ids = set()
    for _ in range(2):
        async with talking() as (qemu, _):
            ids.add((await qemu.greet())["id"])
    assert len(ids) == 2


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_events_are_kept_and_late_replies_dropped_however_the_bytes_arrive(step: int) -> None:
    async with talking() as (qemu, task):
        request = await qemu.greet()
        data = STOP + LATE + reply(request) + STOP.replace(b"STOP", b"RESUME")
        for start in range(0, len(data), step):
            await qemu.say(data[start : start + step])
            await asyncio.sleep(0)
        events: list[QemuEvent] = (await task)[1]
        # what comes after the reply, with its last byte, is kept too; later events come by the link
        assert [event.name for event in events][:1] == ["STOP"]
        assert {event.name for event in events} <= {"STOP", "RESUME"}


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_an_event_before_the_greeting_is_kept_and_a_late_reply_dropped(step: int) -> None:
    async with talking() as (qemu, task):
        data = STOP + LATE + GREETING.encode() + b"\r\n"
        for start in range(0, len(data), step):
            await qemu.say(data[start : start + step])
            await asyncio.sleep(0)
        request = await qemu.hear()
        await qemu.say(STOP.replace(b"STOP", b"RESUME") + reply(request))
        greeting, events, _ = await task
        assert greeting.version == "10.0.2"
        assert [event.name for event in events] == ["STOP", "RESUME"]


@pytest.mark.parametrize(
    ("said", "cause", "words"),
    [
        ([], Cause.CLOSED, "closes them without a greeting"),
        ([b"RFB 003.008"], Cause.FOREIGN, "a VNC server"),
        ([b"(qemu) \r\n"], Cause.FOREIGN, "an HMP monitor"),
        ([b'{"QMP": 5}\r\n'], Cause.FOREIGN, "no greeting of QEMU"),
        ([GREETING.encode()], Cause.FOREIGN, "no greeting of QEMU"),  # cut off before the end of its line
        ([STOP], Cause.FOREIGN, "no greeting of QEMU"),
        ([STOP, b'{"return": {}}\r\n'], Cause.FOREIGN, "no greeting of QEMU"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_who_closes_without_a_greeting_is_named(said: list[bytes], cause: Cause, words: str) -> None:
    async with talking() as (qemu, task):
        await qemu.say(*said)
        qemu.close()
        with pytest.raises(AbsentError, match=words) as caught:
            await task
        assert caught.value.absence.cause is cause


async def test_a_qemu_that_closes_after_its_greeting_has_greeted() -> None:
    async with talking() as (qemu, task):
        await qemu.greet()
        qemu.close()
        with pytest.raises(AbsentError, match="has greeted, and closed the connection before it negotiated") as caught:
            await task
        assert caught.value.absence.cause is Cause.CLOSED


async def test_a_refused_negotiation_is_told_in_qemus_words() -> None:
    async with talking() as (qemu, task):
        request = await qemu.greet()
        await qemu.say(reply(request, error={"class": "GenericError", "desc": "no oob here"}))
        with pytest.raises(AbsentError, match="no oob here") as caught:
            await task
        assert caught.value.absence.cause is Cause.REFUSED


async def test_what_is_no_qmp_after_the_greeting_is_no_qemu() -> None:
    async with talking() as (qemu, task):
        request = await qemu.greet()
        await qemu.say(b"garbage\r\n", reply(request))
        with pytest.raises(AbsentError, match="garbage"):
            await task


@pytest.mark.parametrize("greeted", [False, True])
async def test_one_that_sends_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, *, greeted: bool) -> None:
    monkeypatch.setattr(module, "MAX_GREETING", 1000)
    monkeypatch.setattr(module, "MAX_BEFORE", 1000)
    async with talking() as (qemu, task):
        if greeted:
            await qemu.greet()
        await qemu.say(b"x" * 2000)
        with pytest.raises(AbsentError) as caught:
            await task
        assert caught.value.absence.cause is (Cause.HUNG if greeted else Cause.FOREIGN)


async def test_one_that_answers_everybody_else_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 10)
    async with talking() as (qemu, task):
        await qemu.greet()
        await qemu.say(LATE * 20)
        with pytest.raises(AbsentError, match="QEMU sent more than 10 messages, where one answer was due") as caught:
            await task
        assert caught.value.absence.cause is Cause.HUNG


@pytest.mark.parametrize(
    ("said", "cause", "words"),
    [
        (b"", Cause.OCCUPIED, "another client may hold it, or QEMU hangs"),
        (b"RFB ", Cause.FOREIGN, "a VNC server"),
        (GREETING.encode() + b"\r\n", Cause.HUNG, "QEMU has greeted, but does not negotiate"),
    ],
)
async def test_one_that_is_too_slow_is_named_by_what_it_has_said(
    said: bytes, cause: Cause, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GREETING_TIMEOUT", 0.05)
    async with talking() as (qemu, task):
        await qemu.say(said)
        with pytest.raises(AbsentError, match=words) as caught:
            await task
        assert caught.value.absence.cause is cause


async def test_silence_is_told_once_and_does_not_end_the_negotiation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.0)
    silent, told = asyncio.Event(), []

    def on_silence() -> None:
        told.append("silent")
        silent.set()

    async with talking(on_silence) as (qemu, task):
        await silent.wait()
        await qemu.say(reply(await qemu.greet()))
        assert (await task)[0].version == "10.0.2"
    assert told == ["silent"]


async def test_who_greets_at_once_was_never_silent() -> None:
    told: list[str] = []
    async with talking(lambda: told.append("silent")) as (qemu, task):
        await qemu.say(reply(await qemu.greet()))
        await task
    assert told == []


@pytest.mark.parametrize("greeting", [b"", GREETING.encode() + b"\r\n"])
async def test_bytes_that_come_one_by_one_leave_the_event_loop_to_others(
    monkeypatch: pytest.MonkeyPatch, greeting: bytes
) -> None:
    monkeypatch.setattr(module, "MAX_GREETING", 1000)
    monkeypatch.setattr(module, "MAX_BEFORE", 1000)
    coming = [greeting] if greeting else []
    turns = 0

    async def always_ready(sock: socket.socket, size: int) -> tuple[bytes, None]:
        return (coming.pop() if coming else b" "), None

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(module, "receive_with_sender", always_ready)
    async with talking() as (_, task):
        others = asyncio.ensure_future(take_turns())  # noqa: TID251 -- cancelled below
        with pytest.raises(AbsentError):
            await task
        others.cancel()
    assert turns > 500


@pytest.mark.parametrize("before", [True, False], ids=["before the greeting", "behind it"])
@pytest.mark.parametrize("more", [0, 1])
async def test_only_some_bytes_of_events_are_kept(monkeypatch: pytest.MonkeyPatch, *, before: bool, more: int) -> None:
    monkeypatch.setattr(module, "MAX_EVENTS", 3 * len(STOP))
    async with talking() as (qemu, task):
        await qemu.say(STOP, LATE, *[STOP] * before)
        request = await qemu.greet()
        await qemu.say(LATE, *[STOP] * (1 - before), reply(request) + STOP * (1 + more))
        if more:
            with pytest.raises(AbsentError, match="QEMU sent events of more than") as caught:
                await task
            assert caught.value.absence.cause is Cause.HUNG
        else:
            assert [event.name for event in (await task).events] == ["STOP"] * 3


async def test_an_event_is_parsed_before_qemu_has_answered() -> None:
    async with talking() as (qemu, task):
        await qemu.greet()
        await qemu.say(b'{"event": 1}\r\n')
        with pytest.raises(AbsentError):
            await task


async def test_messages_behind_the_negotiations_reply_are_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 10)
    async with talking() as (qemu, task):
        request = await qemu.greet()
        await qemu.say(reply(request) + STOP * 20)
        with pytest.raises(AbsentError, match="more than 10 messages"):
            await task
