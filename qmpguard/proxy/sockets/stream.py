"""Bytes and descriptors over one socket, without waiting: reads are handed to an owner, writes are queued.

Nothing here knows what the bytes mean. Writes made while a read is being handled leave together when it is done,
so that ten replies that came in one read cost one system call, not ten.

An exception in what the loop calls here ends this stream and nothing else: what the owner may have done in part is
never gone on with, so a message is either sent whole or its stream is closed.
"""

from __future__ import annotations

import array
import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from qmpguard.proxy.sockets.descriptors import Descriptor, close_all, is_reserved
from qmpguard.proxy.sockets.hangups import Hangups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: bytes taken in one go. It also bounds the work done for one socket before the others get their turn.
READ_SIZE = 64 * 1024
#: bytes gathered into one write
WRITE_SIZE = 256 * 1024
#: the most descriptors in one message (Linux: SCM_MAX_FD)
MAX_FDS = 253
#: why a stream is closed whose descriptor would be one of the last that the process can have
NO_DESCRIPTORS = "it sent a descriptor, and the process has almost none left (RLIMIT_NOFILE)"
#: why a stream is closed after an exception of our own
FAILED = "the guard failed, its log has the trace"
# as plain numbers: the enumerations of the standard library are a hundred times slower to combine
_NO_SIGNAL = int(socket.MSG_NOSIGNAL)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_CTRUNC)
_ANCILLARY = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class Owner(Protocol):
    """Who is told what happens on a stream."""

    def received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take bytes and descriptors that came together. The owner closes the descriptors or passes them on."""
        ...

    def ended(self) -> None:
        """The other side has sent its last byte; it may still read."""
        ...

    def lost(self, reason: str) -> None:
        """The stream is closed, not by its owner."""
        ...


class Outbox:
    """The streams that have something to send when the present wake-up has been handled.

    ``grew`` is told of bytes that could not be sent at once, ``failed`` of an exception that has ended a stream. Each
    stream reads into ``buffer``, in its turn. ``wakeup`` counts the wake-ups.
    """

    __slots__ = ("_depth", "_streams", "buffer", "failed", "grew", "hangups", "wakeup")

    def __init__(self, grew: Callable[[int], None], failed: Callable[[Exception], None]) -> None:
        self.grew = grew
        self.failed = failed
        self.hangups = Hangups()
        self.wakeup = 0
        # What is kept of it has its own size: `recv` makes READ_SIZE bytes and gives the rest back, and the few that
        # are kept for a while leave the heap full of holes
        self.buffer = memoryview(bytearray(READ_SIZE))
        self._depth = 0
        self._streams: list[Stream] = []

    def add(self, stream: Stream) -> None:
        """Send what a stream has queued: now, or at the end of the wake-up that is being handled."""
        if self._depth:
            self._streams.append(stream)
        else:
            stream.flush()

    def begin(self) -> None:
        """Begin to handle a wake-up; what follows must be sure to call `end`."""
        if not self._depth:
            self.wakeup += 1
        self._depth += 1

    def end(self) -> None:
        """Send what was queued while the wake-up was handled."""
        self._depth -= 1
        if self._streams and not self._depth:
            streams, self._streams = self._streams, []
            for stream in streams:
                stream.flush()

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()


class _Long(NamedTuple):
    """A long message whose bytes are made as the socket takes them; before the last of them it counts for ``size``."""

    pieces: Iterator[bytes]
    size: int
    ahead: bytes | None = None  # a piece that is made already


class Stream:
    """One connected, non-blocking stream socket. ``limit`` is in bytes, for what the other side does not read.

    Without ``descriptors`` the kernel closes those that the other side sends (unix(7)), which is a cheaper way to read.
    ``linger`` is in seconds: after a write error what the other side had sent before it closed is still read.
    """

    def __init__(
        self, sock: socket.socket, outbox: Outbox, *, limit: int, descriptors: bool = True, linger: float = 0.0
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fileno = sock.fileno()
        self._outbox = outbox
        self._buffer = outbox.buffer
        self._limit = limit
        self._descriptors = descriptors
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._owner: Owner | None = None
        self._queue: deque[tuple[bytes | _Long, Descriptor | None]] = deque()
        self._queued = 0
        self._paused = False
        self._watched = False  # by the loop, for what arrives
        self._writing = False
        self._sent: Callable[[], None] | None = None
        self._last_words: asyncio.TimerHandle | None = None  # after a write error
        self.closed = False

    def start(self, owner: Owner) -> None:
        """Begin to hand what arrives to an owner."""
        self._owner = owner
        self.resume()

    def wait(self, owner: Owner) -> None:
        """Hand nothing to an owner before `start`, but that the other side has closed."""
        self._owner = owner
        self._ignore()

    def resume(self) -> None:
        """Read on after `pause`."""
        self._paused = False
        if not self._watched and not self.closed:
            self._watched = True
            self._outbox.hangups.forget(self._fileno)
            self._loop.add_reader(self._fileno, self._readable)

    def pause(self) -> None:
        """Leave what arrives in the kernel, so that the other side feels it."""
        # mostly nothing does before `resume`, and the loop's watch need not be taken back and set up anew
        self._paused = True

    def _ignore(self) -> None:
        """Wait for nothing but the other side's hang-up."""
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fileno)
        self._outbox.hangups.watch(self._fileno, self._hung_up)

    def _hung_up(self) -> None:
        """Called when the other side has closed both directions while nothing is read from it."""
        try:
            self._lose("it ended the conversation")
        except Exception as error:  # noqa: BLE001 -- it concerns no other stream
            self._outbox.failed(error)

    def write(self, data: bytes, descriptor: Descriptor | None = None) -> None:
        """Queue bytes, and a descriptor that travels in one message with them. Never waits, never raises."""
        self._put(data, len(data), descriptor)

    def write_long(self, pieces: Iterator[bytes], size: int, descriptor: Descriptor | None = None) -> None:
        """Queue a message in pieces: one of them is made and sent, then the others have their turn.

        It counts for ``size`` bytes among those that are pending. The descriptor travels with the first piece. Never
        waits, never raises.
        """
        self._put(_Long(pieces, size), size, descriptor)

    def _put(self, data: bytes | _Long, size: int, descriptor: Descriptor | None) -> None:
        if self.closed or self._last_words is not None:
            if descriptor:
                descriptor.close()
            return
        self._queue.append((data, descriptor))
        self._queued += size
        if self._queued - size > self._limit:
            self.flush()
            if self._queued - size > self._limit:  # it has not read what came before
                self._lose("it does not read what it is sent")
        elif len(self._queue) == 1:
            self._outbox.add(self)
        elif self._writing:
            self._outbox.grew(size)

    def flush(self) -> None:
        """Send what is queued as far as the socket takes it; the rest follows when it is ready."""
        if self._writing:
            return
        try:
            while self._queue:
                if not self._send():
                    self._writing = True
                    self._loop.add_writer(self._fileno, self._writable)
                    if isinstance(self._queue[0][0], bytes):
                        self._outbox.grew(self._queued)
                    return
        except OSError as error:
            self._unwritable(error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 -- a message may have gone out in part: this stream is over
            self._fail(error)
        else:
            if self._sent is not None:
                callback, self._sent = self._sent, None
                self.call_soon(callback)

    def _unwritable(self, reason: str) -> None:
        """Read what the other side has sent before it closed, if that is wanted; send nothing more."""
        if not self._linger or self._last_words is not None:
            self._lose(reason)
            return
        self._drop_queue()
        self._last_words = self._loop.call_later(self._linger, self._lose, reason)

    def _fail(self, error: Exception) -> None:
        """End the stream after an exception that nobody expected: it has the trace logged and counted."""
        self._outbox.failed(error)
        try:
            self._lose(FAILED)
        except Exception as second:  # noqa: BLE001 -- as above
            self._outbox.failed(second)

    def close(self) -> None:
        """Close the socket; what is still queued is dropped. The owner is not told, since it asks."""
        if self.closed:
            return
        self.closed = True
        self._owner = self._sent = None  # they hold the stream: what has ended is to be free at once, with its buffers
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fileno)
        self._outbox.hangups.forget(self._fileno)
        if self._last_words is not None:
            self._last_words.cancel()
            self._last_words = None
        self._drop_queue()
        self._sock.close()

    def _drop_queue(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fileno)
        for _, descriptor in self._queue:
            if descriptor:
                descriptor.close()
        self._queue.clear()
        self._queued = 0

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back when every other socket has had its turn."""
        self._loop.call_soon(self._wake, callback)

    def when_sent(self, callback: Callable[[], None]) -> None:
        """Call back once, in a turn of its own, when everything queued has been sent."""
        self._sent = callback

    @property
    def wakeup(self) -> int:
        """The number of the loop's wake-up that is being handled."""
        return self._outbox.wakeup

    @property
    def pending(self) -> int:
        """Bytes queued that the socket has not taken yet."""
        return self._queued

    def _send(self) -> bool:
        """Send the head of the queue; False when the socket is full, or the others are to have their turn."""
        data, descriptor = self._queue[0]
        if isinstance(data, _Long):
            return self._send_piece(data, descriptor)
        try:
            if descriptor:
                rights = array.array("i", [descriptor.fileno()])
                sent = self._sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _NO_SIGNAL)
                descriptor.close()
            else:
                if len(self._queue) > 1:
                    data = self._gather()
                sent = self._sock.send(data, _NO_SIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        self._queued -= sent
        if sent == len(data):
            self._queue.popleft()
            return True
        # the descriptor went with the first byte (unix(7)); what is left is bytes only
        self._queue[0] = (data[sent:], None)
        return False

    def _send_piece(self, long: _Long, descriptor: Descriptor | None) -> bool:
        piece = next(long.pieces, b"") if long.ahead is None else long.ahead
        if (ahead := next(long.pieces, None)) is None:
            # it is over before its last byte is sent: the answer to that may come at once
            self._queue.popleft()
            self._queued -= long.size
        else:
            self._queue[0] = _Long(long.pieces, long.size, ahead), None
        self._queue.appendleft((piece, descriptor))
        self._queued += len(piece)
        return self._send() and ahead is None

    def _gather(self) -> bytes:
        """Make one piece of the bytes at the head of the queue, up to the next descriptor, and return it."""
        pieces = []
        size = 0
        while self._queue and size < WRITE_SIZE:
            data, descriptor = self._queue[0]
            if descriptor or isinstance(data, _Long):
                break
            self._queue.popleft()
            pieces.append(data)
            size += len(data)
        data = b"".join(pieces)
        self._queue.appendleft((data, None))
        return data

    def _writable(self) -> None:
        self._writing = False
        self._loop.remove_writer(self._fileno)
        self.flush()

    def _wake(self, callback: Callable[[], None]) -> None:
        if self.closed:
            return
        try:
            with self._outbox:
                callback()
        except Exception as error:  # noqa: BLE001 -- it ends this stream, and no other
            self._fail(error)

    def _readable(self) -> None:
        assert self._owner is not None
        if self._paused:
            self._ignore()
            return
        try:
            data, descriptors = self._receive()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        except Exception as error:  # noqa: BLE001 -- what was read is lost, so this stream is over
            self._fail(error)
            return
        self._outbox.begin()  # without a `with`, which costs as much as sending
        try:
            if data:
                self._owner.received(data, descriptors)
            else:
                self._ignore()
                self._owner.ended()
        except Exception as error:  # noqa: BLE001 -- it ends this stream, and no other
            self._fail(error)
        finally:
            self._outbox.end()

    def _receive(self) -> tuple[bytes, list[Descriptor]]:
        """Return what has arrived; no bytes at the end. Raises `OSError`."""
        buffer = self._buffer
        if not self._descriptors:
            return buffer[: self._sock.recv_into(buffer)].tobytes(), []
        size, ancillary, flags, _ = self._sock.recvmsg_into([buffer], _ANCILLARY, _CLOSE_ON_EXEC)
        descriptors = _descriptors(ancillary) if ancillary else []
        if flags & _TRUNCATED:
            # some descriptors were lost in the kernel: nobody can tell which command lacks one
            close_all(descriptors)
            raise OSError("it sent more descriptors than could be received")
        if descriptors and is_reserved(descriptors[0].fileno()):
            close_all(descriptors)
            raise OSError(NO_DESCRIPTORS)
        return buffer[:size].tobytes(), descriptors

    def _lose(self, reason: str) -> None:
        if not self.closed:
            owner = self._owner
            self.close()
            if owner:
                owner.lost(reason)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[Descriptor]:
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return [Descriptor(number) for number in numbers]
