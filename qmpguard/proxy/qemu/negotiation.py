"""The first words with QEMU: its greeting, and the negotiation. Whatever else is said is an `AbsentError`.

A greeting and what comes before the negotiation's reply are bounded in bytes, messages and seconds: it may be no QEMU
that speaks.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, NamedTuple

from qmpguard.proxy.listening.peer import receive_with_sender, set_credentials
from qmpguard.proxy.qemu.absence import SHOWN, AbsentError, Cause, foreign
from qmpguard.wire.qemu_messages import Greeting, OddReply, Splitter, find_id

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from qmpguard.proxy.listening.peer import ProcessIdentity
    from qmpguard.wire.qemu_messages import QemuEvent

#: seconds without a greeting after which it is said that another client may hold the monitor
SILENCE = 5.0
#: seconds for greeting and negotiation, after which the connection is tried anew
GREETING_TIMEOUT = 60.0
#: bytes of a greeting; QEMU's has 200, and what its packager has written
MAX_GREETING = 1 << 20
#: bytes and messages before the negotiation's reply: QEMU may still answer who was connected before, and tell events
MAX_BEFORE, MAX_MESSAGES = 16 << 20, 4096
#: bytes of the events among them, which are kept; parsed, they may take twenty times as much
MAX_EVENTS = 1 << 20

#: bytes of the negotiation's id, by which its reply is told from one to who was connected before; QEMU has eight
ID_SIZE = 7

# with a line's end, unlike all later requests: it may be no QEMU that answers, but what reads lines
_NEGOTIATE = {
    True: b'{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"id":%d}\n',
    False: b'{"execute":"qmp_capabilities","id":%d}\n',
}
#: said while nothing has come, and when nothing has come in time
NO_GREETING = "it accepts connections but sends no greeting: another client may hold it, or QEMU hangs"


class Negotiated(NamedTuple):
    """The result of a negotiation: QEMU's greeting, events that came already, and QEMU's process.

    The process is None where the kernel does not tell it, as by TCP.
    """

    greeting: Greeting
    events: list[QemuEvent]
    process: ProcessIdentity | None


async def negotiate(sock: socket.socket, on_silence: Callable[[], None]) -> Negotiated:
    """Return QEMU's greeting, with out-of-band enabled if it offers that, and what came with it.

    QEMU executes one request at a time and answers it to whoever is connected by then. So the reply to a client that
    has left may come first; behind the negotiation's own there is none. Such a reply or an event may even come before
    the greeting: the monitor's thread sends that, and events and replies come from the main thread, which takes the
    monitor for negotiated until then (monitor/qmp.c: monitor_qmp_event, monitor/monitor.c: monitor_qapi_event_emit).
    ``on_silence`` is called after `SILENCE`.

    Raises `OSError`, or `AbsentError` when what answers is not QEMU, or not in time.
    """
    conversation = _Conversation(sock)
    set_credentials(sock, on=True)
    try:
        async with asyncio.timeout(GREETING_TIMEOUT):
            greeting = await _greeting(conversation, on_silence)
            await _enable(conversation, greeting)
        set_credentials(sock, on=False)
        return Negotiated(greeting, conversation.events, conversation.sender)
    except TimeoutError:
        raise conversation.too_late() from None
    except ConnectionError:
        raise conversation.closed() from None


async def _greeting(conversation: _Conversation, on_silence: Callable[[], None]) -> Greeting:
    """Return the greeting."""
    reminder = asyncio.get_running_loop().call_later(SILENCE, on_silence)
    try:
        while (greeting := _read_greeting(message := await conversation.next())) is None:
            if not conversation.keep(message) and find_id(message) is None:
                raise foreign(message)
    finally:
        reminder.cancel()
    conversation.greeted = True
    return greeting


def _read_greeting(message: bytes) -> Greeting | None:
    try:
        return Greeting(message)
    except ValueError:
        return None


async def _enable(conversation: _Conversation, greeting: Greeting) -> None:
    """Negotiate."""
    number = int.from_bytes(os.urandom(ID_SIZE))
    await conversation.send(_NEGOTIATE["oob" in greeting.offered] % number)
    while not _answers(number, message := await conversation.next()):
        conversation.keep(message)
    if b'"return"' not in message:
        raise AbsentError(Cause.REFUSED, f"QEMU refused the negotiation: {message[: 4 * SHOWN]!r}")
    for behind in await conversation.rest():
        conversation.keep(behind)


class _Conversation:
    """Messages of QEMU, one after the other, within the limits.

    ``greeted``: its greeting has come. ``sender`` is the process that sent the last one, where it is known. ``events``
    are those that were kept.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.greeted = False
        self.sender: ProcessIdentity | None = None
        self.events: list[QemuEvent] = []
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._splitter = Splitter()
        self._messages: list[bytes] = []  # the next one is the last
        self._bytes = self._count = self._kept = 0
        self._head = b""  # what came first

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def next(self) -> bytes:
        """Return the next message. Raises `OSError` or `AbsentError`."""
        while not self._messages:
            await self._receive()
        return self._messages.pop()

    async def rest(self) -> list[bytes]:
        """Return what else has come, up to the end of a message. Raises as `next` does."""
        while self._splitter.held:
            await self._receive()
        rest, self._messages = self._messages[::-1], []
        return rest

    def keep(self, message: bytes) -> bool:
        """Keep an event, and say whether it was one. Raises `AbsentError` where it is no QMP, and above `MAX_EVENTS`.

        It is parsed before the next message is received, so that none holds the event loop with many of them.
        """
        if (event := _event(message)) is None:
            return False
        self._kept += len(message)
        if self._kept > MAX_EVENTS:
            raise AbsentError(Cause.HUNG, f"QEMU sent events of more than {MAX_EVENTS} bytes, where one answer was due")
        self.events.append(event)
        return True

    async def _receive(self) -> None:
        # the end of a message is the end of what QEMU has sent so far, but for events, which are kept
        data, sender = await receive_with_sender(self._sock, 64 * 1024)
        self.sender = sender or self.sender
        if not data:
            raise self.closed()
        self._bytes += len(data)
        self._head = self._head or data[: 4 * SHOWN]
        if self._bytes > (MAX_BEFORE if self.greeted else MAX_GREETING):
            raise self._endless()
        messages = self._splitter.feed(data)
        self._count += len(messages)
        if self._count > MAX_MESSAGES:
            raise AbsentError(Cause.HUNG, f"QEMU sent more than {MAX_MESSAGES} messages, where one answer was due")
        self._messages = [*reversed(messages), *self._messages]
        await asyncio.sleep(0)  # what sends one byte after the other would keep the event loop from everything else

    def too_late(self) -> AbsentError:
        """Return what it means that the time is over."""
        if self.greeted:
            return AbsentError(Cause.HUNG, "QEMU has greeted, but does not negotiate: it is stopped or hangs")
        return foreign(self._head) if self._head else AbsentError(Cause.OCCUPIED, NO_GREETING)

    def closed(self) -> AbsentError:
        """Return what it means that the other side has closed."""
        if self.greeted:
            return AbsentError(Cause.CLOSED, "QEMU has greeted, and closed the connection before it negotiated")
        if self._head:
            return foreign(self._head)
        return AbsentError(Cause.CLOSED, "it accepts connections, and closes them without a greeting")

    def _endless(self) -> AbsentError:
        if self.greeted:
            return AbsentError(Cause.HUNG, f"QEMU sent {self._bytes} bytes, and none answers the negotiation")
        return foreign(self._head)


def _answers(number: int, message: bytes) -> bool:
    place = find_id(message)
    return place is not None and message[slice(*place)] == b"%d" % number


def _event(message: bytes) -> QemuEvent | None:
    """Return an event; None for a reply. Raises `AbsentError` for what is no QMP at all."""
    if find_id(message) is not None:
        return None
    try:
        return OddReply(message).event
    except ValueError:
        raise foreign(message) from None
