"""The guard's own session: a qemu.qmp client on an internal socket pair, which asks the survey's questions.

Its other end is an ordinary session of the hub, with one privilege: it does not wait for the gate.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Answer, Missing, Query
from qmpguard.policy.problem import Refusal
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    import socket

    from qmpguard.wire.json import Value

log = logging.getLogger(__name__)

#: seconds for the greeting and the negotiation, which are answered inside this process
HANDSHAKE = 10.0


class OwnClient(QMPClient):
    """A client that does not pretty-print each message for a log that nobody reads: most of a survey's time.

    Its messages end where they are complete, not with a line: a QEMU with ``pretty=on`` writes many lines each.
    """

    async def _readline(self) -> bytes:
        lines = [await super()._readline()]
        while lines[0].startswith(b"{") and not lines[0].rstrip().endswith(b"}") and not lines[-1].startswith(b"}"):
            lines.append(await super()._readline())
        return b"".join(lines)

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        return msg


class Control:
    """Asks one QEMU questions over one link. What is asked here can never reach the QEMU of another link."""

    def __init__(self, vm: str = "") -> None:
        self._vm = vm
        self._client: QMPClient | None = None
        self._abandoned: asyncio.Future[list[Answer]] | None = None  # the last burst that took too long
        self._decided = asyncio.Event()  # that it can be asked, or that it never will
        # it reports every lost connection as an error of its own; the hub has said why already
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

    async def serve(self, sock: socket.socket) -> None:
        """Talk over a socket until cancelled; the hub runs this for as long as the link lasts."""
        client = OwnClient("qmpguard")
        try:
            async with asyncio.timeout(HANDSHAKE):
                await client.connect(sock)
            self._client = client
            self._decided.set()
            await asyncio.get_running_loop().create_future()
        except (QMPError, OSError, TimeoutError) as error:
            log.warning("vm=%s control session failed: %s", self._vm, error)
        finally:
            self.close()
            await _disconnect(client, sock)

    def close(self) -> None:
        """Answer nothing more: the link is gone."""
        self._client = None
        self._decided.set()

    async def ask(self, queries: tuple[Query, ...]) -> tuple[Answer, ...]:
        """Return QEMU's answers, in order; the questions are sent in one burst.

        While QEMU still owes the answers to an earlier burst, they are sent one after the other: an abandoned question
        takes a place in the window that clients need. The caller sets the limit. Raises `UnavailableError` when QEMU
        goes away, or refuses a question that is not optional.
        """
        await self._decided.wait()
        client = self._client
        if client is None:
            raise UnavailableError("QEMU went away")
        if self._abandoned is not None and not self._abandoned.done():
            return tuple([await put(client, query) for query in queries])
        burst = asyncio.gather(*(put(client, query) for query in queries))
        burst.add_done_callback(_forget_error)
        try:
            return tuple(await asyncio.shield(burst))
        except asyncio.CancelledError:
            self._abandoned = burst
            raise

    async def answers_out_of_band(self) -> bool:
        """Ask what QEMU answers even while its main loop is busy (``query-yank``)."""
        client = self._client
        if client is None:
            return False
        try:
            await client.execute("query-yank", oob=True)
        except QMPError:
            return False
        return True


def _forget_error(burst: asyncio.Future[list[Answer]]) -> None:
    """Called when QEMU has answered a burst, perhaps after nothing waits for it any more."""
    if not burst.cancelled():
        burst.exception()


async def put(client: QMPClient, query: Query) -> Answer:
    """Put one question to QEMU. Raises `UnavailableError` when it goes away, or refuses one that is not optional."""
    try:
        arguments = dict(query.arguments) or None
        return cast("Value", await client.execute(query.command, arguments))
    except ExecuteError as error:
        if query.optional:
            return Missing()
        raise RefusedError(Refusal(query.command, error.error_class, str(error))) from error
    except QMPError as error:
        raise UnavailableError("QEMU went away") from error


class RefusedError(UnavailableError):
    """QEMU has refused a question."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"QEMU refused {refusal.command}: {refusal.text}")
        self.refusal = refusal


async def _disconnect(client: QMPClient, sock: socket.socket) -> None:
    """End a conversation, also when cancelled meanwhile: qemu.qmp would leave an error unread, and asyncio says so."""
    async with Tasks() as tasks:
        ending = tasks.start("disconnect", _end(client))
        while not ending.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((ending,))
    sock.close()


async def _end(client: QMPClient) -> None:
    try:
        async with asyncio.timeout(HANDSHAKE):
            await client.disconnect()
    except Exception as error:  # noqa: BLE001 -- it re-raises what its reader met: an answer that is no UTF-8, or too deep
        log.debug("control session ended: %r", error)
