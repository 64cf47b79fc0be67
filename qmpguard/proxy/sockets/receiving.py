"""Receiving bytes with the file descriptors that came with them (unix(7): SCM_RIGHTS)."""

from __future__ import annotations

import array
import socket
import threading

from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.sockets.descriptors import Descriptor, close_all, is_reserved

#: bytes taken in one go. It also bounds the work done for one socket before the others get their turn.
READ_SIZE = 64 * 1024
#: the most descriptors in one message (Linux: SCM_MAX_FD)
MAX_FDS = 253
# as plain numbers: the enumerations of the standard library are a hundred times slower to combine
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_CTRUNC)
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class DescriptorError(OSError):
    """Descriptors came that cannot be taken; ``reason`` says why."""

    def __init__(self, reason: CloseReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class ReadBuffer(threading.local):
    """The buffer into which all streams of a thread read, one at a time; what was read is copied out at once.

    `recv` would make `READ_SIZE` bytes each time and give most of them back, and leave the heap full of holes.
    """

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(READ_SIZE))


of_thread = ReadBuffer()


def receive(sock: socket.socket, buffer: memoryview) -> tuple[bytes, list[Descriptor]]:
    """Return the bytes that have arrived, and the descriptors that came with them; no bytes at the end.

    The caller owns the descriptors. Raises `OSError`, and `DescriptorError` where they cannot be taken.
    """
    size, ancillary, flags, _ = sock.recvmsg_into([buffer], _ANCILLARY, _CLOSE_ON_EXEC)
    descriptors = _received(ancillary) if ancillary else []
    if flags & _TRUNCATED:
        # the kernel has dropped some of them: it cannot be told which command lacks one
        close_all(descriptors)
        raise DescriptorError(CloseReason.LOST_DESCRIPTORS)
    if descriptors and is_reserved(descriptors[0].fileno()):
        close_all(descriptors)
        raise DescriptorError(CloseReason.NO_DESCRIPTORS)
    return buffer[:size].tobytes(), descriptors


def _received(ancillary: list[tuple[int, int, bytes]]) -> list[Descriptor]:
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return [Descriptor(number) for number in numbers]
