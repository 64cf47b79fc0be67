"""The traffic file: the requests of clients, one JSON object a line, without secrets. For debugging."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from qmpguard.logs.secret import MAX_NAME, redacted
from qmpguard.wire.json import encode

if TYPE_CHECKING:
    from qmpguard.logs.linefile import Sink
    from qmpguard.proxy.clients.pending import PendingRequest
    from qmpguard.record import Peer
    from qmpguard.wire.client_messages import Request
    from qmpguard.wire.json import Value

log = logging.getLogger(__name__)


class Traffic:
    """Writes requests to a sink, except excluded commands."""

    def __init__(self, sink: Sink, exclude: frozenset[str]) -> None:
        self._sink = sink
        self._exclude = exclude

    def on_request(self, vm: str, peer: Peer, request: Request) -> None:
        """Called with each request of a client; writes it. Never raises."""
        if request.command in self._exclude:
            return
        try:
            line = encode(_line(vm, peer, request))
        except Exception as error:  # the request must go on
            log.error("vm=%s client=%s a line of traffic cannot be built: %r", vm, peer, error, exc_info=error)
            self._sink.count()
        else:
            self._sink.put(line)

    def on_reply(self, vm: str, pending: PendingRequest, reply: bytes) -> None:
        """Called with each reply; the traffic file has none."""


def _line(vm: str, peer: Peer, request: Request) -> Value:
    return {
        "time": f"{time.time():.6f}",
        "vm": vm,
        "client": str(peer),
        "command": request.command[:MAX_NAME],
        "oob": request.oob,
        "arguments": redacted(request.command, request.arguments),
    }
