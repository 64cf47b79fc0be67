"""Bytes and descriptors over one socket, without waiting: what arrives goes to a protocol, what is written is queued.

Nothing here knows what the bytes mean. The calls are named as asyncio's. Invariants:

* Writes that are made while a read is being handled leave together when it is done (`Outbox`): ten replies to ten
  requests that came in one read cost one system call.
* An exception in a callback of the event loop ends this stream and nothing else. A message that was sent in part is
  never gone on with: either a message is sent whole, or its stream is closed.
* `connection_lost` is called once, and not where the protocol itself has closed the stream.
* A stream that is paused is not read, but its hang-up is noticed (`Hangups`), so that no closed client keeps a place.
* No write waits. Where the other side leaves more than ``limit`` bytes unread, the stream is closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from qmpguard.proxy.closing import CloseReason
from qmpguard.proxy.sockets.hangups import Hangups
from qmpguard.proxy.sockets.receiving import DescriptorError, of_thread, receive
from qmpguard.proxy.sockets.send_queue import LongMessage, SendQueue

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from qmpguard.proxy.sockets.descriptors import Descriptor
    from qmpguard.proxy.sockets.protocol import StreamProtocol


class Outbox:
    """The streams that have something to send when the present wake-up has been handled.

    ``grew`` is called with the size of what could not be sent at once, ``failed`` with an exception that has ended a
    stream. ``wakeup`` counts the wake-ups of the event loop.
    """

    __slots__ = ("_streams", "depth", "failed", "grew", "hangups", "wakeup")

    def __init__(self, grew: Callable[[int], None], failed: Callable[[Exception], None]) -> None:
        self.grew = grew
        self.failed = failed
        self.hangups = Hangups()
        self.wakeup = 0
        self.depth = 0  # of the handling of a wake-up
        self._streams: list[Stream] = []

    def add(self, stream: Stream) -> None:
        """Send what a stream has queued: now, or at the end of the wake-up that is being handled."""
        if self.depth:
            self._streams.append(stream)
        else:
            stream.flush()

    def end(self) -> None:
        """Send what was queued while the wake-up was handled."""
        self.depth -= 1
        if self._streams and not self.depth:
            streams, self._streams = self._streams, []
            for stream in streams:
                stream.flush()

    def __enter__(self) -> None:
        if not self.depth:
            self.wakeup += 1
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.end()


class Stream:
    """One connected, non-blocking stream socket. ``limit`` is in bytes, for what the other side does not read.

    Without ``descriptors`` the kernel closes those that the other side sends (unix(7)), which is a cheaper way to read.
    ``linger`` is in seconds: after a write error, bytes that the other side had sent before are still read.
    """

    def __init__(
        self, sock: socket.socket, outbox: Outbox, *, limit: int, descriptors: bool = True, linger: float = 0.0
    ) -> None:
        sock.setblocking(False)
        self.closed = False
        self._sock = sock
        self._fileno = sock.fileno()
        self._outbox = outbox
        self._limit = limit
        self._descriptors = descriptors
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._protocol: StreamProtocol | None = None
        self._queue = SendQueue()
        self._paused = False
        self._watched = False  # by the event loop, for what arrives
        self._writing = False
        self._on_sent: Callable[[], None] | None = None
        self._lingering: asyncio.TimerHandle | None = None  # after a write error

    def start(self, protocol: StreamProtocol) -> None:
        """Begin to read, and call a protocol with what arrives."""
        self._protocol = protocol
        self.resume()

    def wait(self, protocol: StreamProtocol) -> None:
        """Read nothing before `start`; call `connection_lost` where the other side hangs up before."""
        self._protocol = protocol
        self._watch_hangup()

    def resume(self) -> None:
        """Read on after `pause`."""
        self._paused = False
        if not self._watched and not self.closed:
            self._watched = True
            self._outbox.hangups.forget(self._fileno)
            self._loop.add_reader(self._fileno, self._readable)

    def pause(self) -> None:
        """Leave what arrives in the kernel, so that the other side feels back-pressure."""
        # mostly nothing arrives before `resume`, and the loop's watch need not be taken back and set up anew
        self._paused = True

    def _watch_hangup(self) -> None:
        """Watch for nothing but the other side's hang-up."""
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fileno)
        self._outbox.hangups.watch(self._fileno, self._hung_up)

    def _hung_up(self) -> None:
        """Called when the other side has closed both directions while nothing is read from it."""
        try:
            self._lose(CloseReason.ENDED)
        except Exception as error:  # noqa: BLE001 -- it concerns no other stream
            self._outbox.failed(error)

    def _readable(self) -> None:
        assert self._protocol is not None
        if self._paused:
            self._watch_hangup()
            return
        buffer = of_thread.buffer
        try:
            if self._descriptors:
                data, descriptors = receive(self._sock, buffer)
            else:
                data, descriptors = buffer[: self._sock.recv_into(buffer)].tobytes(), []
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(error)
            return
        except Exception as error:  # noqa: BLE001 -- what was read is lost, so this stream is over
            self._fail(error)
            return
        outbox = self._outbox  # without a `with`, which costs as much as sending
        if not outbox.depth:
            outbox.wakeup += 1
        outbox.depth += 1
        try:
            if data:
                self._protocol.data_received(data, descriptors)
            else:
                self._watch_hangup()
                self._protocol.eof_received()
        except Exception as error:  # noqa: BLE001 -- it ends this stream, and no other
            self._fail(error)
        finally:
            outbox.end()

    def write(self, data: bytes, descriptor: Descriptor | None = None) -> None:
        """Queue bytes, and a descriptor that travels in one message with them. Never waits, never raises."""
        self._put(data, len(data), descriptor)

    def write_long(self, pieces: Iterator[bytes], size: int, descriptor: Descriptor | None = None) -> None:
        """Queue a message in pieces, each of which is made and sent in a turn; it counts for ``size`` pending bytes."""
        self._put(LongMessage(pieces, size), size, descriptor)

    def _put(self, data: bytes | LongMessage, size: int, descriptor: Descriptor | None) -> None:
        if self.closed or self._lingering is not None:
            if descriptor:
                descriptor.close()
            return
        queue = self._queue
        queue.messages.append((data, descriptor))
        queue.size += size
        if queue.size - size > self._limit:
            self.flush()
            if queue.size - size > self._limit:  # it has not read what came before
                self._lose(CloseReason.DOES_NOT_READ)
        elif len(queue.messages) == 1:
            self._outbox.add(self)
        elif self._writing:
            self._outbox.grew(size)

    def flush(self) -> None:
        """Send what is queued as far as the socket takes it; the rest follows when it is ready."""
        if self._writing:
            return
        queue = self._queue
        try:
            while queue.messages:
                if not queue.send(self._sock):
                    self._writing = True
                    self._loop.add_writer(self._fileno, self._writable)
                    if not queue.begins_with_long:
                        self._outbox.grew(queue.size)
                    return
        except OSError as error:
            self._unwritable(error)
        except Exception as error:  # noqa: BLE001 -- a message may have gone out in part: this stream is over
            self._fail(error)
        else:
            if self._on_sent is not None:
                callback, self._on_sent = self._on_sent, None
                self.call_soon(callback)

    def _writable(self) -> None:
        self._writing = False
        self._loop.remove_writer(self._fileno)
        self.flush()

    def _call(self, callback: Callable[[], None]) -> None:
        if self.closed:
            return
        try:
            with self._outbox:
                callback()
        except Exception as error:  # noqa: BLE001 -- it ends this stream, and no other
            self._fail(error)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back when every other socket has had its turn."""
        self._loop.call_soon(self._call, callback)

    def when_sent(self, callback: Callable[[], None]) -> None:
        """Call back once, in a turn of its own, when everything queued has been sent."""
        self._on_sent = callback

    @property
    def pending(self) -> int:
        """Bytes queued that the socket has not taken yet."""
        return self._queue.size

    def close(self) -> None:
        """Close the socket; what is still queued is dropped. `connection_lost` is not called."""
        if self.closed:
            return
        self.closed = True
        # they hold the stream, and a closed stream is to be free at once, with its buffers
        self._protocol = self._on_sent = None
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fileno)
        self._outbox.hangups.forget(self._fileno)
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        self._drop_queue()
        self._sock.close()

    def _drop_queue(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fileno)
        self._queue.clear()

    def _unwritable(self, error: OSError) -> None:
        """Send nothing more, and read what the other side has sent before, if that is wanted."""
        if not self._linger or self._lingering is not None:
            self._broken(error)
            return
        self._drop_queue()
        self._lingering = self._loop.call_later(self._linger, self._broken, error)

    def _broken(self, error: OSError) -> None:
        if isinstance(error, DescriptorError):
            self._lose(error.reason)
        else:
            self._lose(CloseReason.BROKEN, error.strerror or str(error))

    def _fail(self, error: Exception) -> None:
        """End the stream after an exception of our own, which is logged with its trace, and counted."""
        self._outbox.failed(error)
        try:
            self._lose(CloseReason.FAILED)
        except Exception as second:  # noqa: BLE001 -- as above
            self._outbox.failed(second)

    def _lose(self, reason: CloseReason, detail: str = "") -> None:
        if not self.closed:
            protocol = self._protocol
            self.close()
            if protocol:
                protocol.connection_lost(reason, detail)
