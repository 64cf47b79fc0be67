"""Where the owner of a guard's process speaks to it: a unix socket of its own, for the same user and for root.

It is there however the guard was started: as a file that only its owner can connect to, in a runtime directory of the
guard, of its user, or of root; where there is none, as in a bare container, under an abstract name, which everybody on
the machine can connect to. Whoever is neither root nor the guard's own user is refused before anything is made for him;
those two could end the guard anyway.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from qmpguard.address import UnixAddress
from qmpguard.errors import QmpguardError, UnavailableError, UsageError
from qmpguard.policy.portrait import draw_memory, draw_policy
from qmpguard.policy.rules import modes
from qmpguard.proxy.listening.listener import Listener
from qmpguard.proxy.listening.socket_file import is_deserted
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping

    from qmpguard.daemon.fleet import Fleet
    from qmpguard.daemon.guard import Guard
    from qmpguard.proxy.judging.overrides import Overrides
    from qmpguard.record import Override, Peer

log = logging.getLogger(__name__)

Object: TypeAlias = dict[str, object]

#: what every console's name begins or ends with
NAME = "qmpguard-console"
#: where root has what lives as long as the machine runs
RUN = Path("/run")
#: conversations at a time; a command of `override` has two, one after the other
MAX_TALKS = 8
#: bytes of a request at most
MAX_REQUEST = 16 * 1024
#: seconds that a conversation may take
REQUEST_TIMEOUT = 5.0
#: seconds that an override may last: longer is a decision for the configuration
LONGEST = 24 * 3600.0
#: characters of a reason
MAX_REASON = 500


def places(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield the paths that a console of this process may have, the best first.

    One that begins with a zero byte is an abstract name: it is always possible, and the last.
    """
    if directory := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        yield f"{directory}/{NAME}.sock"
    own = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    for folder in (own, RUN) if os.geteuid() == 0 else (own,):
        if _is_private(folder):
            yield f"{folder}/{NAME}-{os.getpid()}.sock"
    yield f"\0{NAME}-{os.getpid()}-{os.urandom(4).hex()}"


def sweep(folder: Path) -> None:
    """Remove the consoles of processes that were killed."""
    for path in folder.glob(f"{NAME}-*.sock"):
        pid = path.stem.rpartition("-")[2]
        with suppress(OSError):
            if not Path(f"/proc/{pid}").exists() and path.is_socket() and is_deserted(path):
                path.unlink()


def _is_private(folder: Path) -> bool:
    """Say whether nobody else can put or remove files there."""
    try:
        status = folder.stat()
    except OSError:
        return False
    ours = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return ours and stat.S_ISDIR(status.st_mode) and os.access(folder, os.W_OK)


def _stranger(peer: Peer) -> str | None:
    """Return why somebody is not spoken to."""
    return None if peer.uid in (0, os.geteuid()) else "neither root nor the guard's own user"


class Console:
    """Answers one request a connection: a line of JSON in, a line out. ``listener`` is its socket while it runs."""

    def __init__(self, fleet: Fleet, *paths: str) -> None:
        self.listener: Listener | None = None
        self._fleet = fleet
        self._paths = paths
        self._tasks = Tasks()
        self._talks = 0

    async def run(self) -> None:
        """Listen until cancelled. Where that is not possible the log says so, and the guard goes on without."""
        self.listener = self._open()
        if self.listener is None:
            return
        try:
            async with Tasks("console") as self._tasks:
                await asyncio.get_running_loop().create_future()
        finally:
            self.listener.close()

    def _open(self) -> Listener | None:
        """Return the socket at the first path where it can be."""
        errors = []
        for path in self._paths:
            if not path.startswith("\0"):
                sweep(Path(path).parent)
            try:
                return Listener(UnixAddress(path), self._accepted, label="console", admits=self._refusal)
            except UnavailableError as error:
                errors.append(str(error))
        log.warning("no overrides are possible: %s", "; ".join(errors))
        return None

    def _refusal(self, peer: Peer) -> str | None:
        return _stranger(peer) or (f"{MAX_TALKS} conversations already" if self._talks >= MAX_TALKS else None)

    def _accepted(self, sock: socket.socket, peer: Peer) -> None:
        self._talks += 1
        self._tasks.start("conversation", self._converse(sock, peer))

    async def _converse(self, sock: socket.socket, peer: Peer) -> None:
        try:
            await self._serve(sock, peer)
        finally:
            self._talks -= 1

    async def _serve(self, sock: socket.socket, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            sock.setblocking(False)
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    data = b""
                    while not data.endswith(b"\n") and len(data) <= MAX_REQUEST:
                        data += (piece := await loop.sock_recv(sock, MAX_REQUEST))
                        if not piece:
                            return
                    await loop.sock_sendall(sock, (await self._answer(data, peer)).encode() + b"\n")
            except (OSError, TimeoutError) as error:
                log.info("console client=%s lost: %s", peer, error)

    async def _answer(self, data: bytes, peer: Peer) -> str:
        try:
            return f'{{"return": {await self._do(data, peer)}}}'
        except QmpguardError as error:
            return json.dumps({"error": str(error)})
        except Exception as error:  # noqa: BLE001 -- whoever asks is told, and the log has the trace
            self._tasks.record("conversation", error)
            return json.dumps({"error": f"the guard failed at this request: {error!r}"})

    async def _do(self, data: bytes, peer: Peer) -> str:
        """Return the answer to a request, as JSON."""
        try:
            request = json.loads(data)
        except (ValueError, RecursionError):
            raise UsageError("it is no JSON") from None
        match request:
            case {"vms": True}:
                return await self._vms()
            case {"status": True}:
                return json.dumps([_vm(name, guard.vm.overrides) for name, guard in self._fleet.guards.items()])
            case {"policy": [*addresses]}:
                guards = self._fleet.guards.items()
                return json.dumps([_standing(name, guard) for name, guard in guards if _at(guard, addresses)])
            case {"begin": {"vm": str(vm), "rule": str() | None as rule, "seconds": seconds, "reason": str(reason)}}:
                overrides = self._of(vm)
                override = overrides.begin(self._rule(vm, rule), _seconds(seconds), _reason(reason), peer)
                return json.dumps(_override(override))
            case {"end": {"vm": str(vm), "rule": str() | None as rule}}:
                return json.dumps(self._of(vm).end(self._rule(vm, rule)))
            case _:
                raise UsageError("it is no request that this version knows")

    async def _vms(self) -> str:
        """Return all that is known of each VM, as the admin interface tells it. Others have their turn between two."""
        from qmpguard.admin.serialize import vm

        told = []
        for guard in tuple(self._fleet.guards.values()):
            told.append(json.dumps(vm(guard.vm.snapshot(), self._fleet.run)))
            await asyncio.sleep(0)
        return f"[{', '.join(told)}]"

    def _of(self, vm: str) -> Overrides:
        guard = self._fleet.guards.get(vm)
        if guard is None:
            raise UsageError(f"there is no VM {vm!r} here; there are {', '.join(self._fleet.guards)}")
        return guard.vm.overrides

    def _rule(self, vm: str, rule: str | None) -> str | None:
        known = [name for name, _ in modes(self._fleet.guards[vm].vm.gate.policy)]
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


def _at(guard: Guard, addresses: list[object]) -> bool:
    """Say whether a VM's clients connect at one of some addresses, as it is written or as the kernel calls it."""
    return str(guard.config.listen) in addresses or (guard.listener is not None and guard.listener.name in addresses)


def _standing(name: str, guard: Guard) -> Object:
    """Return by which policy a VM's guard judges now, overrides included, and what it remembers of its QEMU."""
    vm = guard.vm
    told = _vm(name, vm.overrides)
    return told | {"policy": draw_policy(vm.overrides.policy), "memory": draw_memory(vm.gate.known)}
