"""Where the owner of a guard's process speaks to it: a unix socket of its own, for the same user and for root.

It is there however the guard was started. Its place needs no directory that a container may lack: an abstract name,
or, where systemd gives a runtime directory (and perhaps a network namespace, in which abstract names are private), a
file in it. Whoever is neither root nor the guard's own user is sent away; those two could end the guard anyway.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.address import UnixAddress
from qmpguard.errors import QmpguardError, UnavailableError, UsageError
from qmpguard.policy.policy import Policy
from qmpguard.policy.rules import modes
from qmpguard.proxy.listener import Listener

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from qmpguard.daemon.fleet import Fleet
    from qmpguard.proxy.overrides import Overrides
    from qmpguard.record import Override, Peer

log = logging.getLogger(__name__)

Object: TypeAlias = dict[str, object]

#: what every console's name begins or ends with
NAME = "qmpguard-console"
#: bytes of a request at most
MAX_REQUEST = 16 * 1024
#: seconds that a conversation may take
PATIENCE = 5.0
#: seconds that an override may last: longer is a decision for the configuration
LONGEST = 24 * 3600.0
#: characters of a reason
MAX_REASON = 500


def place(environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of a console of this process; one that begins with a zero byte is an abstract name."""
    directory = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if directory:
        return f"{directory}/{NAME}.sock"
    return f"\0{NAME}-{os.getpid()}-{os.urandom(4).hex()}"


class Console:
    """Answers one request a connection: a line of JSON in, a line out."""

    def __init__(self, fleet: Fleet, path: str) -> None:
        self._fleet = fleet
        self._path = path
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Listen until cancelled. Where that is not possible the log says so, and the guard goes on without."""
        try:
            listener = Listener(UnixAddress(self._path), self._accepted)
        except UnavailableError as error:
            log.warning("no overrides are possible: %s", error)
            return
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await asyncio.get_running_loop().create_future()
        finally:
            listener.close()

    def _accepted(self, sock: socket.socket, peer: Peer) -> None:
        if peer.uid not in (0, os.geteuid()) or self._tasks is None:
            log.warning("console client=%s refused: neither root nor the guard's own user", peer)
            sock.close()
            return
        self._tasks.create_task(self._serve(sock, peer))

    async def _serve(self, sock: socket.socket, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            sock.setblocking(False)
            try:
                async with asyncio.timeout(PATIENCE):
                    data = b""
                    while not data.endswith(b"\n") and len(data) <= MAX_REQUEST:
                        data += (piece := await loop.sock_recv(sock, MAX_REQUEST))
                        if not piece:
                            return
                    await loop.sock_sendall(sock, json.dumps(self._answer(data, peer)).encode() + b"\n")
            except (OSError, TimeoutError) as error:
                log.info("console client=%s lost: %s", peer, error)

    def _answer(self, data: bytes, peer: Peer) -> Object:
        try:
            return {"return": self._do(data, peer)}
        except QmpguardError as error:
            return {"error": str(error)}

    def _do(self, data: bytes, peer: Peer) -> object:
        try:
            request = json.loads(data)
        except (ValueError, RecursionError):
            raise UsageError("it is no JSON") from None
        match request:
            case {"status": True}:
                return [_vm(name, guard.hub.overrides) for name, guard in self._fleet.guards.items()]
            case {"begin": {"vm": str(vm), "rule": str() | None as rule, "seconds": seconds, "reason": str(reason)}}:
                override = self._of(vm).begin(_rule(rule), _seconds(seconds), _reason(reason), peer)
                return _override(override)
            case {"end": {"vm": str(vm), "rule": str() | None as rule}}:
                return self._of(vm).end(_rule(rule))
            case _:
                raise UsageError("it is no request that this version knows")

    def _of(self, vm: str) -> Overrides:
        guard = self._fleet.guards.get(vm)
        if guard is None:
            raise UsageError(f"there is no VM {vm!r} here; there are {', '.join(self._fleet.guards)}")
        return guard.hub.overrides


def _rule(rule: str | None) -> str | None:
    known = [name for name, _ in modes(Policy())]
    if rule is not None and rule not in known:
        raise UsageError(f"there is no rule {rule!r}; there are {', '.join(known)}")
    return rule


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LONGEST:
        raise UsageError(f"an override lasts more than 0 and at most {LONGEST:.0f} s")
    return value


def _reason(text: str) -> str:
    reason = " ".join(text.split())
    if not reason or len(reason) > MAX_REASON or not reason.isprintable():
        raise UsageError(f"a reason is a text of at most {MAX_REASON} characters: it goes into the audit")
    return reason


def _vm(name: str, overrides: Overrides) -> Object:
    return {"vm": name, "overrides": [_override(override) for override in overrides.active]}


def _override(override: Override) -> Object:
    return {"rule": override.rule, "until": override.until, "reason": override.reason, "by": override.peer.uid}
