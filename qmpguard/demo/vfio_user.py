"""A small PCI device at the far end of QEMU's `vfio-user-pci`: enough for QEMU to realize, use and reset it.

It has PCI configuration space and one memory BAR; it does no DMA and raises no interrupt. The protocol is
described in QEMU's docs/interop/vfio-user.rst. As a process: `python -m qmpguard.demo.vfio_user SOCKET`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import struct
from dataclasses import dataclass
from errno import EINVAL, ENOTSUP
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

#: bytes of data in one region access, as announced to the client (max_data_xfer_size); its default in the specification
MAX_TRANSFER = 1 << 20
#: bytes in one message: the largest region write, with room for both headers
MAX_MESSAGE = MAX_TRANSFER + 64
#: descriptors that a client may send with one message (max_msg_fds)
MAX_FDS = 8

#: id, command, size of the whole message, flags, errno
HEADER = struct.Struct("<HHIII")
#: the type of a message is in the low four bits of its flags
_TYPE, _COMMAND, _REPLY = 0xF, 0x0, 0x1
_NO_REPLY, _ERROR = 1 << 4, 1 << 5

_VERSION = struct.Struct("<HH")
#: as the structures of the same names in linux/vfio.h
_DEVICE_INFO = struct.Struct("<IIII")
_REGION_INFO = struct.Struct("<IIIIQQ")
_IRQ_INFO = struct.Struct("<IIII")
_DMA_UNMAP = struct.Struct("<IIQQ")
#: offset, region, count
_ACCESS = struct.Struct("<QII")
_NOTHING = struct.Struct("")

# linux/vfio.h
_DEVICE_RESET, _DEVICE_PCI = 1 << 0, 1 << 1
_REGION_READ, _REGION_WRITE = 1 << 0, 1 << 1
_IRQ_EVENTFD, _IRQ_NORESIZE = 1 << 0, 1 << 3
_BAR0, _CONFIG, _REGIONS, _IRQS = 0, 7, 9, 5

_BAR_SIZE = 4096
_CONFIG_SIZE = 256
#: what software may change in configuration space: offset and mask. BAR 0 shows its size by the bits that stay 0.
_WRITABLE = {
    0x04: b"\xff\xff",  # command
    0x0C: b"\xff",  # cache line size
    0x10: (-_BAR_SIZE & 0xFFFFFFFF).to_bytes(4, "little"),
    0x3C: b"\xff",  # interrupt line
}
_MASK = {start + i: bits for start, mask in _WRITABLE.items() for i, bits in enumerate(mask)}


@dataclass(frozen=True, slots=True)
class VfioUserRefusal:
    """A negative reply, with an errno."""

    number: int


class VfioUserDevice:
    """The state of one PCI device: its regions, by their VFIO index."""

    def __init__(self) -> None:
        config = bytearray(_CONFIG_SIZE)
        struct.pack_into("<HH", config, 0x00, 0x1234, 0x11E9)  # vendor and device: QEMU's, for examples
        struct.pack_into("<BBBB", config, 0x08, 1, 0, 0, 0x08)  # revision 1, a generic system peripheral
        self.regions = {_BAR0: bytearray(_BAR_SIZE), _CONFIG: config}

    def read(self, region: int, offset: int, count: int) -> bytes | None:
        """Return the bytes, or None outside the region."""
        memory = self.regions.get(region, b"")
        return bytes(memory[offset : offset + count]) if offset + count <= len(memory) else None

    def write(self, region: int, offset: int, data: bytes) -> bool:
        """Write the bytes, except read-only bits; False outside the region."""
        memory = self.regions.get(region, bytearray())
        if offset + len(data) > len(memory):
            return False
        for i, byte in enumerate(data, offset):
            mask = _MASK.get(i, 0) if region == _CONFIG else 0xFF
            memory[i] = memory[i] & ~mask | byte & mask
        return True

    def reset(self) -> None:
        """Restore the state at plugging."""
        self.regions = VfioUserDevice().regions


def _version(_: VfioUserDevice, body: bytes) -> bytes | VfioUserRefusal:
    major, minor = _VERSION.unpack_from(body)
    if major != 0:
        return VfioUserRefusal(EINVAL)
    limits = {"max_msg_fds": MAX_FDS, "max_data_xfer_size": MAX_TRANSFER, "pgsizes": 4096}
    return _VERSION.pack(0, min(minor, 1)) + json.dumps({"capabilities": limits}).encode() + b"\0"


def _nothing_to_do(_: VfioUserDevice, __: bytes) -> bytes:
    return b""


def _dma_unmap(_: VfioUserDevice, body: bytes) -> bytes:
    return body[: _DMA_UNMAP.size]


def _device_info(_: VfioUserDevice, __: bytes) -> bytes:
    return _DEVICE_INFO.pack(_DEVICE_INFO.size, _DEVICE_RESET | _DEVICE_PCI, _REGIONS, _IRQS)


def _region_info(device: VfioUserDevice, body: bytes) -> bytes | VfioUserRefusal:
    _, _, index, _, _, _ = _REGION_INFO.unpack_from(body)
    if index >= _REGIONS:
        return VfioUserRefusal(EINVAL)
    size = len(device.regions.get(index, b""))
    flags = _REGION_READ | _REGION_WRITE if size else 0
    return _REGION_INFO.pack(_REGION_INFO.size, flags, index, 0, size, 0)


def _irq_info(_: VfioUserDevice, body: bytes) -> bytes | VfioUserRefusal:
    _, _, index, _ = _IRQ_INFO.unpack_from(body)
    if index >= _IRQS:
        return VfioUserRefusal(EINVAL)
    return _IRQ_INFO.pack(_IRQ_INFO.size, _IRQ_EVENTFD | _IRQ_NORESIZE, index, 0)


def _region_read(device: VfioUserDevice, body: bytes) -> bytes | VfioUserRefusal:
    offset, region, count = _ACCESS.unpack_from(body)
    data = device.read(region, offset, count)
    return VfioUserRefusal(EINVAL) if data is None else body[: _ACCESS.size] + data


def _region_write(device: VfioUserDevice, body: bytes) -> bytes | VfioUserRefusal:
    offset, region, count = _ACCESS.unpack_from(body)
    data = body[_ACCESS.size :]
    if len(data) != count or not device.write(region, offset, data):
        return VfioUserRefusal(EINVAL)
    return body[: _ACCESS.size]


def _reset(device: VfioUserDevice, _: bytes) -> bytes:
    device.reset()
    return b""


#: the commands by number: the shortest body, and the function that replies
COMMANDS: Mapping[int, tuple[struct.Struct, Callable[[VfioUserDevice, bytes], bytes | VfioUserRefusal]]] = {
    1: (_VERSION, _version),
    2: (_NOTHING, _nothing_to_do),  # DMA_MAP
    3: (_DMA_UNMAP, _dma_unmap),
    4: (_NOTHING, _device_info),
    5: (_REGION_INFO, _region_info),
    7: (_IRQ_INFO, _irq_info),
    8: (_NOTHING, _nothing_to_do),  # DEVICE_SET_IRQS
    9: (_ACCESS, _region_read),
    10: (_ACCESS, _region_write),
    13: (_NOTHING, _reset),
}


def answer(device: VfioUserDevice, command: int, body: bytes) -> bytes | VfioUserRefusal:
    """Return the body of the reply to one command, or the refusal; never raises."""
    if command not in COMMANDS:
        return VfioUserRefusal(ENOTSUP)
    least, reply = COMMANDS[command]
    return reply(device, body) if len(body) >= least.size else VfioUserRefusal(EINVAL)


class VfioUserServer:
    """A vfio-user server at a unix socket, in the caller's event loop, from `async with` to its end.

    It serves any number of connections, each with a separate device. A connection with invalid framing is closed;
    everything else is answered. Entering raises OSError if no socket can be created at ``path``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tasks = asyncio.TaskGroup()
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._server = await asyncio.start_unix_server(self._accept, self.path)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.path.unlink(missing_ok=True)
        for writer in self._connections:
            writer.transport.abort()
        await self._tasks.__aexit__(None, None, None)  # the exception of the caller's block is not wrapped
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # DMA_MAP and SET_IRQS pass guest memory and eventfds as descriptors. asyncio reads with recv(), which has no
        # buffer for control messages, so the kernel closes such descriptors (unix(7), SCM_RIGHTS): none can leak.
        self._connections.add(writer)
        self._tasks.create_task(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        device = VfioUserDevice()
        try:
            # the other side may disconnect at any point
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while await _exchange(device, reader, writer):
                    pass
        finally:
            writer.transport.abort()
            self._connections.discard(writer)
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _exchange(device: VfioUserDevice, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Read one command and reply; False if the message is not a command."""
    number, command, size, flags, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
    if flags & _TYPE != _COMMAND or not HEADER.size <= size <= MAX_MESSAGE:
        return False
    reply = answer(device, command, await reader.readexactly(size - HEADER.size))
    if not flags & _NO_REPLY:
        writer.write(_framed(number, command, reply))
        await writer.drain()
    return True


def _framed(number: int, command: int, reply: bytes | VfioUserRefusal) -> bytes:
    match reply:
        case VfioUserRefusal(error):
            return HEADER.pack(number, command, HEADER.size, _REPLY | _ERROR, error)
        case _:
            return HEADER.pack(number, command, HEADER.size + len(reply), _REPLY, 0) + reply


async def serve(path: Path) -> None:
    """Serve at ``path`` until SIGTERM or SIGINT; prints `ready` when clients can connect."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with VfioUserServer(path):
        print("ready", flush=True)
        await stop.wait()


def main() -> None:
    """Serve at the socket that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m qmpguard.demo.vfio_user", description="A PCI device by vfio-user.")
    parser.add_argument("socket", type=Path, help="where to listen; QEMU's vfio-user-pci connects there")
    asyncio.run(serve(parser.parse_args().socket))


if __name__ == "__main__":
    main()
