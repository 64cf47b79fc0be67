"""The vfio-user device, spoken to over a real socket as QEMU would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from errno import EINVAL, ENOTSUP
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.vfio_user import (
    COMMANDS,
    HEADER,
    MAX_MESSAGE,
    VfioUserDevice,
    VfioUserRefusal,
    VfioUserServer,
    answer,
)
from tests.support.descriptors import open_files, opened_since

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

#: seconds for one exchange with the server
TIMEOUT = 10.0

VERSION, DMA_MAP, DMA_UNMAP, DEVICE_INFO, REGION_INFO, IRQ_INFO, SET_IRQS, READ, WRITE, RESET = COMMANDS
BAR0, ROM, CONFIG, NO_REGION = 0, 6, 7, 9


@dataclass(slots=True)
class Client:
    """One connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, command: int, body: bytes = b"", *, flags: int = 0, number: int = 7) -> None:
        self.writer.write(HEADER.pack(number, command, HEADER.size + len(body), flags, 0) + body)

    async def receive(self) -> tuple[int, bytes]:
        """Return the errno and the body of the next reply."""
        async with asyncio.timeout(TIMEOUT):
            number, _, size, flags, error = HEADER.unpack(await self.reader.readexactly(HEADER.size))
            assert number == 7
            assert flags == (0x21 if error else 0x01)
            return error, await self.reader.readexactly(size - HEADER.size)

    async def ask(self, command: int, body: bytes = b"") -> tuple[int, bytes]:
        self.send(command, body)
        return await self.receive()

    async def read(self, region: int, offset: int, count: int) -> bytes:
        error, body = await self.ask(READ, access(offset, region, count))
        assert error == 0
        assert body[:16] == access(offset, region, count)
        return body[16:]

    async def write(self, region: int, offset: int, data: bytes) -> int:
        error, _ = await self.ask(WRITE, access(offset, region, len(data)) + data)
        return error

    async def closed(self) -> bool:
        """Whether the server has closed the connection, without another byte."""
        async with asyncio.timeout(TIMEOUT):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def connected(path: Path) -> AsyncGenerator[Client]:
    client = Client(*await asyncio.open_unix_connection(path))
    try:
        yield client
    finally:
        client.writer.close()


@asynccontextmanager
async def device(folder: Path) -> AsyncGenerator[Client]:
    async with VfioUserServer(folder / "vu.sock") as server, connected(server.path) as client:
        yield client


def access(offset: int, region: int, count: int) -> bytes:
    return struct.pack("<QII", offset, region, count)


async def test_the_version_is_agreed_on(tmp_path: Path) -> None:
    async with device(tmp_path) as client:
        error, body = await client.ask(VERSION, struct.pack("<HH", 0, 3) + b'{"capabilities": {}}\0')
        assert error == 0
        assert struct.unpack("<HH", body[:4]) == (0, 1)
        assert json.loads(body[4:].rstrip(b"\0"))["capabilities"]["max_data_xfer_size"] == 1 << 20


async def test_the_regions_hold_what_is_written_until_a_reset(tmp_path: Path) -> None:
    async with device(tmp_path) as client:
        assert await client.write(BAR0, 4092, b"last") == 0
        assert await client.read(BAR0, 4090, 6) == b"\0\0last"
        assert await client.ask(RESET) == (0, b"")
        assert await client.read(BAR0, 4092, 4) == bytes(4)


async def test_configuration_space_names_the_device_and_keeps_it(tmp_path: Path) -> None:
    async with device(tmp_path) as client:
        assert await client.read(CONFIG, 0, 4) == bytes.fromhex("3412e911")
        assert await client.write(CONFIG, 0, b"\0" * 4) == 0
        assert await client.read(CONFIG, 0, 4) == bytes.fromhex("3412e911")


async def test_a_bar_tells_its_size_by_the_bits_that_stay_zero(tmp_path: Path) -> None:
    async with device(tmp_path) as client:
        assert await client.write(CONFIG, 0x10, b"\xff" * 4) == 0
        assert await client.read(CONFIG, 0x10, 4) == struct.pack("<I", 0xFFFFF000)


async def test_every_connection_has_a_device_of_its_own(tmp_path: Path) -> None:
    async with device(tmp_path) as one, connected(tmp_path / "vu.sock") as other:
        assert await one.write(BAR0, 0, b"mine") == 0
        assert await other.read(BAR0, 0, 4) == bytes(4)


@pytest.mark.parametrize(
    ("command", "body", "reply"),
    [
        (DEVICE_INFO, b"", struct.pack("<IIII", 16, 3, 9, 5)),
        (REGION_INFO, struct.pack("<IIIIQQ", 32, 0, BAR0, 0, 0, 0), struct.pack("<IIIIQQ", 32, 3, BAR0, 0, 4096, 0)),
        (REGION_INFO, struct.pack("<IIIIQQ", 32, 0, CONFIG, 0, 0, 0), struct.pack("<IIIIQQ", 32, 3, CONFIG, 0, 256, 0)),
        (REGION_INFO, struct.pack("<IIIIQQ", 32, 0, ROM, 0, 0, 0), struct.pack("<IIIIQQ", 32, 0, ROM, 0, 0, 0)),
        (IRQ_INFO, struct.pack("<IIII", 16, 0, 4, 0), struct.pack("<IIII", 16, 9, 4, 0)),
        (DMA_MAP, bytes(32), b""),
        (DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 4096, 8192), struct.pack("<IIQQ", 24, 0, 4096, 8192)),
        (SET_IRQS, bytes(20), b""),
    ],
)
def test_what_qemu_asks_is_answered(command: int, body: bytes, reply: bytes) -> None:
    assert answer(VfioUserDevice(), command, body) == reply


@pytest.mark.parametrize(
    ("command", "body", "error"),
    [
        (VERSION, struct.pack("<HH", 1, 0), EINVAL),
        (VERSION, b"\0", EINVAL),
        (REGION_INFO, struct.pack("<IIIIQQ", 32, 0, NO_REGION, 0, 0, 0), EINVAL),
        (REGION_INFO, b"", EINVAL),
        (IRQ_INFO, struct.pack("<IIII", 16, 0, 5, 0), EINVAL),
        (DMA_UNMAP, bytes(23), EINVAL),
        (READ, access(4093, BAR0, 4), EINVAL),
        (READ, access(2**64 - 1, BAR0, 2**32 - 1), EINVAL),
        (READ, access(0, ROM, 1), EINVAL),
        (READ, b"short", EINVAL),
        (WRITE, access(4093, BAR0, 4) + b"over", EINVAL),
        (WRITE, access(0, BAR0, 4) + b"few", EINVAL),
        (WRITE, access(0, NO_REGION, 1) + b"x", EINVAL),
        (0, b"", ENOTSUP),
        (6, b"", ENOTSUP),
        (99, b"", ENOTSUP),
    ],
)
def test_what_cannot_be_is_refused_with_an_errno(command: int, body: bytes, error: int) -> None:
    assert answer(VfioUserDevice(), command, body) == VfioUserRefusal(error)


async def test_a_refused_command_leaves_the_connection_as_it_was(tmp_path: Path) -> None:
    async with device(tmp_path) as client:
        assert await client.ask(99) == (ENOTSUP, b"")
        assert await client.ask(READ, b"short") == (EINVAL, b"")
        assert await client.read(BAR0, 0, 2) == b"\0\0"


async def test_a_command_that_wants_no_reply_gets_none(tmp_path: Path) -> None:
    async with device(tmp_path) as client:
        client.send(WRITE, access(0, BAR0, 2) + b"ok", flags=0x10)
        assert await client.read(BAR0, 0, 2) == b"ok"


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(HEADER.pack(7, VERSION, HEADER.size - 1, 0, 0), id="smaller than its header"),
        pytest.param(HEADER.pack(7, WRITE, MAX_MESSAGE + 1, 0, 0), id="too big"),
        pytest.param(HEADER.pack(7, VERSION, HEADER.size, 1, 0), id="a reply to nothing"),
    ],
)
async def test_a_message_that_cannot_be_closes_its_connection_only(tmp_path: Path, header: bytes) -> None:
    async with device(tmp_path) as client:
        client.writer.write(header)
        assert await client.closed()
        async with connected(tmp_path / "vu.sock") as another:
            assert (await another.ask(RESET)) == (0, b"")


async def test_a_connection_that_ends_inside_a_message_is_closed(tmp_path: Path) -> None:
    async with device(tmp_path) as client:
        client.writer.write(HEADER.pack(7, WRITE, 100, 0, 0) + b"not hundred")
        client.writer.write_eof()
        assert await client.closed()


async def test_received_descriptors_are_closed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        async with VfioUserServer(tmp_path / "vu.sock") as server:
            raw.connect(str(server.path))
            client = Client(*await asyncio.open_unix_connection(sock=raw.dup()))
            assert await client.ask(RESET) == (0, b"")
            before = open_files()
            read_end, write_end = os.pipe2(os.O_NONBLOCK)
            message = HEADER.pack(7, DMA_MAP, HEADER.size + 32, 0, 0) + bytes(32)
            socket.send_fds(raw, [message], [write_end] * 8)
            os.close(write_end)
            assert await client.receive() == (0, b"")
            assert os.read(read_end, 1) == b"", "somebody still holds the other end"
            os.close(read_end)
            assert not opened_since(before)
            client.writer.close()


async def test_leaving_closes_connections_and_removes_the_socket(tmp_path: Path) -> None:
    before = open_files()
    async with VfioUserServer(tmp_path / "vu.sock") as server:
        reader, writer = await asyncio.open_unix_connection(server.path)
        client = Client(reader, writer)
        assert await client.ask(RESET) == (0, b"")
    assert await client.closed()
    assert not server.path.exists()
    writer.close()
    await writer.wait_closed()
    assert not opened_since(before)


async def test_an_error_of_the_caller_passes_as_it_is(tmp_path: Path) -> None:
    async def fail() -> None:
        async with device(tmp_path) as client:
            assert await client.ask(RESET) == (0, b"")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await fail()


async def test_it_runs_as_a_process_says_ready_and_ends_cleanly(tmp_path: Path) -> None:
    path = tmp_path / "vu.sock"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-m", "qmpguard.demo.vfio_user", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        assert await process.stdout.readline() == b"ready\n"
        async with connected(path) as client:
            assert await client.ask(RESET) == (0, b"")
            process.send_signal(signal.SIGTERM)
            assert await client.closed()
        assert await process.communicate() == (b"", b"")
    assert process.returncode == 0
    assert not path.exists()
