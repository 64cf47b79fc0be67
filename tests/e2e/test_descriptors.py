"""Descriptors on their way to real QEMUs: what a client sends is its own, and reaches QEMU or is closed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu, vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.proxy.sockets import descriptors
from tests.support.descriptors import open_files, opened_since
from tests.support.guarding import Client, connected, eventually, guarding, qmp_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from qmpguard.daemon.guard import GuardedVm

NONE = {"error": {"class": "GenericError", "desc": "No file descriptor supplied via SCM_RIGHTS"}}

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.parametrize(
        "find", [system_qemu, pytest.param(vfio_qemu, marks=pytest.mark.qemu11)], ids=["7.2", "11.1"]
    ),
]


def request(command: str, **arguments: Any) -> bytes:
    return json.dumps(
        {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
    ).encode()


class Pipe:
    """A pipe whose writing end is sent away: its reading end tells when the last copy of that was closed."""

    def __init__(self) -> None:
        self.reading, self.number = os.pipe2(os.O_NONBLOCK)

    def give(self) -> int:
        """The number to send; `given` when it was sent."""
        return self.number

    def given(self) -> None:
        os.close(self.number)

    @property
    def is_closed(self) -> bool:
        try:
            return os.read(self.reading, 1) == b""
        except BlockingIOError:
            return False

    async def closed(self) -> None:
        await eventually(lambda: self.is_closed)


@dataclass
class Scene:
    """A guarded QEMU and two clients."""

    guard: GuardedVm
    one: Client
    two: Client
    socket: Path


@asynccontextmanager
async def scene(folder: Path, find: Callable[[], Path], *args: str, monitors: int = 1) -> AsyncGenerator[Scene]:
    before = open_files()
    async with AsyncExitStack() as stack:
        qemu = await stack.enter_async_context(Qemu(find(), folder, args, monitors=monitors))
        guard = await stack.enter_async_context(guarding(qemu.monitors[0]))
        where = folder / "guard.sock"
        one = await stack.enter_async_context(connected(where, oob=True))
        two = await stack.enter_async_context(connected(where))
        yield Scene(guard, one, two, where)
    await asyncio.sleep(0)  # transports close when their turn comes
    await eventually(lambda: not opened_since(before))


@contextmanager
def sent(client: Client, data: bytes, *, count: int = 1) -> Generator[list[Pipe]]:
    """Pipes whose writing ends have been sent with some bytes."""
    pipes = [Pipe() for _ in range(count)]
    try:
        client.with_descriptors(data, *(pipe.give() for pipe in pipes))
        for pipe in pipes:
            pipe.given()
        yield pipes
    finally:
        for pipe in pipes:
            os.close(pipe.reading)


async def test_the_way_of_libvirt_with_the_command(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:
        with sent(it.one, request("getfd", fdname="x") + b"\r\n") as (pipe,):
            assert await it.one.receive() == {"return": {}}
            assert not pipe.is_closed
            assert await it.one.ask("closefd", {"fdname": "x"}) == {"return": {}}
            await pipe.closed()
        assert it.guard.vm.counts.descriptors_passed == 1


async def test_the_way_of_qemu_qmp_with_a_blank_before_the_command(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it, qmp_client(it.socket) as client:
        pipe = Pipe()
        client.send_fd_scm(pipe.give())
        pipe.given()
        answer: Any = await client.execute("add-fd", {"opaque": "mine"})
        assert not pipe.is_closed
        assert await client.execute("remove-fd", {"fdset-id": answer["fdset-id"]}) == {}
        await pipe.closed()
        os.close(pipe.reading)


async def test_requests_before_it_in_the_same_read_do_not_take_it_away(
    tmp_path: Path, find: Callable[[], Path]
) -> None:
    async with scene(tmp_path, find) as it:
        before = request("query-status") * 3
        with sent(it.one, before + request("getfd", fdname="x")) as (pipe,):
            assert [await it.one.receive() for _ in range(4)][3] == {"return": {}}
            assert not pipe.is_closed
        with sent(it.one, before + b" ") as (pipe,):
            assert await it.one.ask("add-fd") != NONE
            assert not pipe.is_closed


async def test_a_command_in_pieces_takes_what_came_with_any_of_them(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:
        whole = request("getfd", fdname="x")
        with sent(it.one, whole[:9]) as (pipe,):
            assert await it.two.ask("getfd", {"fdname": "x"}) == NONE
            it.one.raw(whole[9:])
            assert await it.one.receive() == {"return": {}}
            assert not pipe.is_closed


OTHERS = {
    "another command": request("query-status") + b"\n",
    "without a newline": request("query-status"),
    "out-of-band": b'{"exec-oob": "query-yank"}',
    "getfd out-of-band": b'{"exec-oob": "getfd", "arguments": {"fdname": "x"}}\n',
    "no JSON": b"} ",
    "no request": b'{"execute": 1}\n',
    "wrong arguments": request("getfd", fdname=5) + b"\n",
    "one argument too many": request("getfd", fdname="x", fdset_id=1),
    "no arguments": b'{"execute": "getfd"}',
    "add-fd with wrong arguments": request("add-fd", fdset_id="1"),
    "a number that is too large": request("add-fd", fdset_id=1 << 63),
    "a name that QEMU refuses": request("getfd", fdname="1x"),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
async def test_what_came_with_another_command_is_kept_for_its_own_client_as_by_qemu(
    tmp_path: Path, find: Callable[[], Path], data: bytes
) -> None:
    """A second monitor of the same QEMU, without a guard, says what a lone client is told."""

    async def played(client: Client) -> list[Any]:
        client.send({"execute": "query-status", "id": "last"})
        while (await client.receive()).get("id") != "last":
            pass
        return [await client.ask("getfd", {"fdname": "x"}), await client.ask("getfd", {"fdname": "y"})]

    async with scene(tmp_path, find, monitors=2) as it, connected(tmp_path / "qmp1.sock", oob=True) as alone:
        with sent(alone, data):
            told = await played(alone)
        with sent(it.one, data):
            assert await it.two.ask("getfd", {"fdname": "x"}) == NONE
            assert await it.two.ask("add-fd") == NONE
            assert await played(it.one) == told
            assert await it.two.ask("add-fd") == NONE


async def test_what_came_before_the_negotiation_is_kept(tmp_path: Path, find: Callable[[], Path]) -> None:
    """xenopsd sends a blank with the descriptor first of all."""
    async with scene(tmp_path, find) as it, connected(it.socket, negotiate=False) as early:
        assert "QMP" in await early.receive()
        with sent(early, b" ") as (pipe,):
            assert "error" in await early.ask("getfd", {"fdname": "x"})
            assert await early.ask("qmp_capabilities") == {"return": {}}
            assert "return" in await early.ask("query-status")
            assert "return" in await early.ask("add-fd", {"fdset-id": 1})
            assert not pipe.is_closed
        assert await early.ask("getfd", {"fdname": "x"}) == NONE


async def test_what_a_client_has_kept_is_closed_when_it_leaves(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:
        async with connected(it.socket) as other:
            with sent(other, b" ", count=253) as (first, *rest):
                await eventually(lambda: all(pipe.is_closed for pipe in rest))
                assert not first.is_closed
                other.writer.close()
                await first.closed()
        assert await it.two.ask("getfd", {"fdname": "x"}) == NONE


async def test_what_a_qemu_that_is_not_ready_has_refused_is_nobodys(tmp_path: Path, find: Callable[[], Path]) -> None:
    """QEMU keeps a descriptor whose request it has refused before it looked for one, and gives it to the next."""
    async with scene(tmp_path, find, "-preconfig") as it:
        with sent(it.one, request("getfd", fdname="x")):
            assert "permitted only after" in (await it.one.receive())["error"]["desc"]
            assert await it.one.ask("x-exit-preconfig") == {"return": {}}
            assert await it.two.ask("getfd", {"fdname": "x"}) == NONE
        with sent(it.one, request("getfd", fdname="x")):
            assert await it.one.receive() == {"return": {}}
        assert await it.two.ask("getfd", {"fdname": "y"}) == NONE


async def test_a_name_is_held_through_what_does_not_mention_it(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:
        with sent(it.one, request("getfd", fdname="x")):
            assert await it.one.receive() == {"return": {}}
            assert "return" in await it.one.ask("query-status")
            assert "return" in await it.two.ask("object-add", {"qom-type": "rng-builtin", "id": "x"})
        with sent(it.two, request("getfd", fdname="x")):
            assert "in use by another client" in (await it.two.receive())["error"]["desc"]


async def test_of_several_the_first_is_taken_and_the_rest_are_closed(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:
        with sent(it.one, request("getfd", fdname="x"), count=20) as (first, *rest):
            assert await it.one.receive() == {"return": {}}
            assert not first.is_closed
            await eventually(lambda: all(pipe.is_closed for pipe in rest))


async def test_of_two_batches_the_later_one_counts(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:
        with sent(it.one, b" ") as (first,), sent(it.one, b" ") as (second,):
            assert await it.one.ask("getfd", {"fdname": "x"}) == {"return": {}}
            assert first.is_closed
            assert not second.is_closed


async def test_many_clients_send_many_at_once(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:

        async def send(number: int) -> None:
            async with connected(it.socket, oob=True) as qmp:
                for i in range(8):
                    with sent(qmp, request("getfd", fdname=f"n{number}-{i}")) as (pipe,):
                        assert await qmp.receive() == {"return": {}}
                        assert not pipe.is_closed
                        assert await qmp.ask("closefd", {"fdname": f"n{number}-{i}"}) == {"return": {}}
                        await pipe.closed()

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(send(number))
        assert it.guard.vm.counts.descriptors_passed == 64


async def test_a_client_that_leaves_takes_what_was_not_passed_on_with_it(
    tmp_path: Path, find: Callable[[], Path]
) -> None:
    async with scene(tmp_path, find) as it, connected(it.socket) as third:
        with sent(third, b" ") as (pipe,):
            third.writer.close()
            await pipe.closed()


async def test_more_than_could_be_received_end_the_connection(
    tmp_path: Path, find: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the process has no more descriptors to give: nobody can tell which command lacks one."""
    async with scene(tmp_path, find) as it, connected(it.socket) as third:
        monkeypatch.setattr("qmpguard.proxy.sockets.receiving._ANCILLARY", socket.CMSG_SPACE(4))
        with sent(third, request("getfd", fdname="x"), count=3) as pipes:
            assert await third.closed()
            assert all(pipe.is_closed for pipe in pipes)
        assert await it.two.ask("getfd", {"fdname": "x"}) == NONE


async def test_no_program_that_is_started_meanwhile_inherits_one(
    tmp_path: Path, find: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = []
    original = descriptors.Descriptor.__init__

    def note(self: descriptors.Descriptor, number: int) -> None:
        original(self, number)
        flags.append(fcntl.fcntl(number, fcntl.F_GETFD))

    monkeypatch.setattr(descriptors.Descriptor, "__init__", note)
    async with scene(tmp_path, find) as it:
        with sent(it.one, request("getfd", fdname="x"), count=2):
            assert await it.one.receive() == {"return": {}}
    assert flags == [fcntl.FD_CLOEXEC] * 2


async def test_a_name_of_another_live_client_is_refused(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:
        with sent(it.one, request("getfd", fdname="migrate")) as (mine,):
            assert await it.one.receive() == {"return": {}}
            with sent(it.two, request("getfd", fdname="migrate")) as (theirs,):
                reply = await it.two.receive()
                assert reply["error"]["class"] == "GenericError"
                assert "'migrate' is in use by another client (qmpguard: " in reply["error"]["desc"]
                assert theirs.is_closed
            assert not mine.is_closed
            with sent(it.one, request("getfd", fdname="migrate")) as (again,):
                assert await it.one.receive() == {"return": {}}
                assert not again.is_closed
                await eventually(lambda: mine.is_closed)


ENDS = ["closefd", "used", "left", "not accepted"]


@pytest.mark.parametrize("end", ENDS)
async def test_a_hold_ends(tmp_path: Path, find: Callable[[], Path], end: str) -> None:
    async with scene(tmp_path, find) as it, connected(it.socket) as third:
        name = "1x" if end == "not accepted" else "x"
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                third.with_descriptors(request("getfd", fdname=name), theirs.fileno())
            reply = await third.receive()
            assert ("error" in reply) == (end == "not accepted")
            match end:
                case "closefd":
                    assert await third.ask("closefd", {"fdname": "x"}) == {"return": {}}
                case "used":
                    data = {"addr": {"type": "fd", "data": {"str": "x"}}, "server": False}
                    chardev = {"id": "c", "backend": {"type": "socket", "data": data}}
                    assert "return" in await third.ask("chardev-add", chardev)
                case "left":
                    third.writer.close()
                    await eventually(lambda: len(it.guard.vm.clients) == 2)
                case _:
                    pass
        with sent(it.two, request("getfd", fdname="x")):
            assert await it.two.receive() == {"return": {}}


async def test_a_request_that_fails_does_not_end_a_hold(tmp_path: Path, find: Callable[[], Path]) -> None:
    async with scene(tmp_path, find) as it:
        with sent(it.one, request("getfd", fdname="x")):
            assert await it.one.receive() == {"return": {}}
            assert "error" in await it.one.ask("device_add", {"driver": "nonsense", "id": "x"})
        with sent(it.two, request("getfd", fdname="x")):
            assert "in use by another client" in (await it.two.receive())["error"]["desc"]
        assert "return" in await it.two.ask("query-status", id="x")
