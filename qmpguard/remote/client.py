"""A qemu.qmp client for the commands that query a live VM, and how it puts a survey's questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError

from qmpguard.errors import UnavailableError
from qmpguard.policy.bursts import Answer, Missing, Query

if TYPE_CHECKING:
    from qmpguard.wire.json import Value


class QuietClient(QMPClient):
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


async def put(client: QMPClient, query: Query) -> Answer:
    """Put one question to QEMU. Raises `UnavailableError` when it goes away, or refuses one that is not optional."""
    try:
        arguments = dict(query.arguments) or None
        return cast("Value", await client.execute(query.command, arguments))
    except ExecuteError as error:
        if query.optional:
            return Missing()
        raise UnavailableError(f"QEMU refused {query.command}: {error}") from error
    except QMPError as error:
        raise UnavailableError("QEMU went away") from error
