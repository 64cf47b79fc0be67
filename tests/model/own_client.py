"""In the place of qemu.qmp's client: the guard's own session, as `Control` talks to it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

from qemu.qmp import ExecuteError, Message, QMPError
from qemu.qmp.models import ErrorResponse

from tests.model.streams import ModelStream

if TYPE_CHECKING:
    from qmpguard.proxy.sockets.stream import Outbox
    from tests.model.loop import SteppingLoop
    from tests.model.streams import Token


class OwnPipe:
    """The internal socket pair. `stream` is the hub's end; the other one belongs to `OwnClient`."""

    def __init__(self, loop: SteppingLoop, outbox: Outbox) -> None:
        self.stream = ModelStream(loop, self._on_write, self._on_close)
        self.replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._loop = loop
        self._outbox = outbox
        self._number = 0

    def send(self, request: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Send a request, which the hub reads in the next turn. Raises `QMPError` where the other end is closed."""
        if self.stream.closed:
            raise QMPError("the session is closed")
        self._number += 1
        identity = f"own{self._number}"
        data = json.dumps({**request, "id": identity}).encode()
        self._loop.call_soon(self.stream.receive, self._outbox, data)
        self.replies[identity] = self._loop.create_future()
        return self.replies[identity]

    def _on_write(self, data: bytes, token: Token | None) -> None:
        message = json.loads(data)
        future = self.replies.pop(message.get("id", ""), None)
        if future is not None and not future.done():
            future.set_result(message)

    def _on_close(self) -> None:
        replies, self.replies = self.replies, {}
        for future in replies.values():
            if not future.done():
                future.set_exception(QMPError("the session was closed"))
                future.exception()  # it may be awaited by nobody any more

    def close(self) -> None:
        """Close the client's end: the hub notices that the other side has left."""
        self._loop.call_soon(self._end)

    def _end(self) -> None:
        if self.stream.protocol is not None:
            self.stream.protocol.eof_received()


class OwnClient:
    """The methods of `qemu.qmp.QMPClient` that `Control` calls."""

    def __init__(self, name: str) -> None:
        self._pipe: OwnPipe | None = None

    async def connect(self, sock: object) -> None:
        self._pipe = cast("OwnPipe", sock)
        await self._pipe.send({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}})

    async def execute(self, command: str, arguments: dict[str, Any] | None = None, *, oob: bool = False) -> Any:
        assert self._pipe is not None
        request: dict[str, Any] = {"exec-oob" if oob else "execute": command}
        if arguments is not None:
            request["arguments"] = arguments
        reply = await self._pipe.send(request)
        if "error" in reply:
            message = Message(reply)
            raise ExecuteError(ErrorResponse(message), Message(request), message)
        return reply["return"]

    async def disconnect(self) -> None:
        pass
