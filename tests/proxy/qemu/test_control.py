"""The guard's own session: a burst goes up together, answers come back in order, and it ends without a trace."""

from __future__ import annotations

import asyncio
import gc
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Missing, Query
from qmpguard.policy.problem import Refusal
from qmpguard.proxy.clients.pending import PendingRequest, Unanswered
from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.qemu.control import MAX_ANSWER, Control, RefusedError
from qmpguard.wire.qemu_messages import MAX_VALUES
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import capabilities, connected, guarding

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

#: turns of the loop in which a link that was lost is cleared away, and some more
TURNS = 12
#: seconds for what needs a turn of the loop
SOON = 10.0
STATUS, GET = Query("query-status"), Query("qom-get", (("path", "/x"), ("property", "host")), optional=True)
ERROR = {"error": {"class": "GenericError", "desc": "Property 'host' not found"}}


class Hub:
    """The hub as the session sees it: what was submitted, in order."""

    def __init__(self) -> None:
        self.outbox = nullcontext()
        self.sent: list[PendingRequest] = []
        self.closed: list[tuple[CloseReason, int]] = []

    def submit(self, session: Any) -> None:
        self.sent += session.todo
        session.todo.clear()

    def submit_oob(self, pending: PendingRequest) -> None:
        self.sent.append(pending)

    def on_session_closed(self, session: Any, reason: CloseReason, detail: str, unsent: list[PendingRequest]) -> None:
        self.closed.append((reason, len(unsent)))
        for pending in unsent:
            pending.discard()

    @property
    def asked(self) -> list[tuple[str, Any]]:
        return [(pending.request.command, pending.request.arguments) for pending in self.sent]

    def answer(self, place: int, answer: object) -> None:
        self.sent[place].conclude(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\r\n")


class Busy(Hub):
    """A hub that has no room."""

    def submit(self, session: Any) -> None:
        pass


async def begun(asking: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start to ask, and return when it waits."""
    task = asyncio.get_running_loop().create_task(asking)
    await asyncio.sleep(0)
    return task


async def test_a_burst_goes_up_together_and_its_answers_come_back_in_order() -> None:
    hub = Hub()
    task = await begun(Control(hub).ask((STATUS, GET, GET)))
    assert hub.asked == [("query-status", None), *[("qom-get", {"path": "/x", "property": "host"})] * 2]
    hub.answer(2, ERROR)
    hub.answer(1, {"return": "0000:01:00.0", "id": 1})
    await asyncio.sleep(0)
    assert not task.done()
    hub.answer(0, {"return": {"status": "running"}})
    assert await task == ({"status": "running"}, "0000:01:00.0", Missing())


async def test_no_questions_have_no_answers() -> None:
    assert await Control(Hub()).ask(()) == ()


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Unanswered.LOST, "QEMU went away"),
        (Unanswered.NOT_SENT, "QEMU went away"),
        (b"{", "could not be read"),
        (b"[" * 100_000, "could not be read"),
        (b"\xff\xfe{}", "could not be read"),
        (b"[]", "could not be read"),
        (b'{"id": 1}', "could not be read"),
        (b'{"error": {"class": 1, "desc": ""}}', "could not be read"),
        (b'{"return": "%b"}' % (b"x" * MAX_ANSWER), "could not be read"),
        (b'{"return": [%b0]}' % (b"0," * MAX_VALUES), "could not be read"),
    ],
    ids=range(10),
)
async def test_a_question_without_a_readable_answer_fails_the_burst(outcome: Any, text: str) -> None:
    hub = Hub()
    task = await begun(Control(hub).ask((GET, STATUS)))
    hub.sent[0].conclude(outcome)
    with pytest.raises(UnavailableError, match=text):
        await asyncio.wait_for(task, SOON)
    hub.answer(1, {"return": {}})


async def test_a_refusal_of_what_is_not_optional_tells_which_and_why() -> None:
    hub = Hub()
    task = await begun(Control(hub).ask((STATUS, STATUS)))
    hub.answer(0, {"error": {"class": "CommandNotFound", "desc": "gone"}})
    with pytest.raises(RefusedError, match="QEMU refused query-status: gone") as caught:
        await task
    assert caught.value.refusal == Refusal("query-status", "CommandNotFound", "gone")


async def test_while_qemu_owes_the_answers_to_an_abandoned_burst_questions_are_sent_one_by_one() -> None:
    hub = Hub()
    control = Control(hub)
    abandoned = await begun(control.ask((STATUS, STATUS)))
    abandoned.cancel()
    await asyncio.sleep(0)
    hub.answer(0, {"return": {}})
    task = await begun(control.ask((GET, STATUS)))
    assert len(hub.sent) == 3
    hub.answer(1, {"return": {}})
    hub.answer(2, {"return": "a"})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    hub.answer(3, {"return": "b"})
    assert await task == ("a", "b")
    task = await begun(control.ask((GET, STATUS)))
    assert len(hub.sent) == 6, "nothing is owed any more"
    task.cancel()


@pytest.mark.parametrize(("answer", "alive"), [({"return": []}, True), (ERROR, False)])
async def test_the_heartbeat_is_out_of_band(answer: object, alive: bool) -> None:
    hub = Hub()
    task = await begun(Control(hub).answers_out_of_band())
    assert (hub.asked, hub.sent[0].oob) == ([("query-yank", None)], True)
    hub.answer(0, answer)
    assert await task is alive


async def test_a_missed_heartbeat_keeps_no_burst_from_going_up_together() -> None:
    hub = Hub()
    control = Control(hub)
    missed = await begun(control.answers_out_of_band())
    missed.cancel()
    await asyncio.sleep(0)
    task = await begun(control.ask((STATUS, STATUS)))
    assert len(hub.sent) == 3
    task.cancel()


async def test_a_missed_heartbeat_is_not_asked_again_until_qemu_has_answered() -> None:
    hub = Hub()
    control = Control(hub)
    for _ in range(3):
        missed = await begun(control.answers_out_of_band())
        missed.cancel()
        await asyncio.sleep(0)
    late = await begun(control.answers_out_of_band())
    assert len(hub.sent) == 1
    hub.answer(0, {"return": []})
    assert await late
    following = await begun(control.answers_out_of_band())
    hub.answer(1, {"return": []})
    assert await following


async def test_a_closed_session_answers_nothing_more() -> None:
    hub = Busy()
    control = Control(hub)
    waiting, beating = await begun(control.ask((STATUS, STATUS))), await begun(control.answers_out_of_band())
    control.close(CloseReason.FAILED)
    control.close()
    assert control.is_closed
    assert hub.closed == [(CloseReason.FAILED, 2)]
    assert not await asyncio.wait_for(beating, SOON)
    with pytest.raises(UnavailableError, match="QEMU went away"):
        await waiting
    with pytest.raises(UnavailableError, match="QEMU went away"):
        await control.ask((STATUS,))
    assert not await control.answers_out_of_band()


async def test_a_guard_that_is_stopped_while_it_loses_its_qemu_leaves_no_error_unread(tmp_path: Path) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    for turns in range(TURNS):
        async with FakeQemu(tmp_path / "q") as qemu, guarding(qemu.path):
            qemu.hold.add("query-migrate-capabilities")
            async with connected(tmp_path / "guard.sock") as qmp:
                qmp.send({"execute": "migrate-set-capabilities", "arguments": capabilities(postcopy_ram=True)})
                await qemu.until("query-migrate-capabilities")
                qemu.die()
                for _ in range(turns):
                    await asyncio.sleep(0)
    gc.collect()
    assert not complaints
