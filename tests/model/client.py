"""A client with a list of requests: it sends the next one whenever it is told to, and accounts for every reply."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.model.streams import BrokenPromiseError, ModelStream, Token

if TYPE_CHECKING:
    from qmpguard.proxy.sockets.stream import Outbox
    from tests.model.loop import SteppingLoop

GREETING = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'


class Step(NamedTuple):
    """One request of a client. ``fd``: a descriptor comes with it."""

    command: str
    arguments: dict[str, Any] | None = None
    oob: bool = False
    fd: bool = False


class Client:
    """A client that sends its steps in order, on one connection after the other.

    ``open`` are the ids of its requests without a reply on the present connection, oldest first, and whether each is
    out-of-band.
    """

    def __init__(self, name: str, steps: tuple[Step, ...], *, oob: bool) -> None:
        self.name = name
        self.stream: ModelStream | None = None
        self.position = 0
        self.open: dict[str, bool] = {}
        self.tokens: list[Token] = []
        self.negotiated = False
        self.gone = False  # it has left for good
        self._steps = steps
        self._oob = oob

    @property
    def has_more(self) -> bool:
        return self.position < len(self._steps)

    @property
    def is_connected(self) -> bool:
        return self.stream is not None and not self.stream.closed

    @property
    def can_send(self) -> bool:
        """Whether its next request would be read now."""
        return self.has_more and self.negotiated and self.is_connected and self.stream is not None and self.stream.reads

    def connected(self, loop: SteppingLoop) -> ModelStream:
        """Begin a connection and return the guard's end of it."""
        self.open.clear()
        self.negotiated = False
        self.stream = ModelStream(loop, self._on_write, self.open.clear)
        return self.stream

    def negotiate(self, outbox: Outbox) -> None:
        """Send the first request."""
        assert self.stream is not None
        self.stream.receive(outbox, GREETING if self._oob else b'{"execute": "qmp_capabilities"}')

    def send(self, outbox: Outbox) -> None:
        """Send the next request."""
        assert self.stream is not None
        step = self._steps[self.position]
        self.position += 1
        identity = f"{self.name}{self.position}"
        request: dict[str, Any] = {"exec-oob" if step.oob else "execute": step.command, "id": identity}
        if step.arguments is not None:
            request["arguments"] = step.arguments
        token = Token(identity) if step.fd else None
        if token is not None:
            self.tokens.append(token)
        self.open[identity] = step.oob
        self.stream.receive(outbox, json.dumps(request).encode(), token)

    def _on_write(self, data: bytes, token: Token | None) -> None:
        message = json.loads(data)
        if "QMP" in message or "event" in message:
            return
        if not self.negotiated:
            self.negotiated = True
            return
        self._on_reply(message.get("id"))

    def _on_reply(self, identity: str | None) -> None:
        if identity not in self.open:
            raise BrokenPromiseError(f"{self.name} was told {identity!r}, and waits for {list(self.open)}")
        first = next((each for each, oob in self.open.items() if not oob), None)
        if not self.open.pop(identity) and identity != first:
            raise BrokenPromiseError(f"{self.name} was answered {identity} before {first}")
