"""The console: a unix socket on which the guard's own user and root query and change overrides.

Every guard has one. It is a file that only its owner can connect to, in a runtime directory of the guard, of its user,
or of root. Where there is no such directory, as in a bare container, it has an abstract name, to which every local user
can connect. Any peer other than root and the guard's own user is refused right after accept(2). Those two could end the
guard anyway. A guarded QEMU, and a process that it started, may not change anything, whoever its user is.
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
from qmpguard.daemon.descent import why_refused
from qmpguard.errors import QmpguardError, UnavailableError, UsageError
from qmpguard.policy.machine_json import memory_to_json, policy_to_json
from qmpguard.policy.rules import modes
from qmpguard.proxy.listening.listener import Listener
from qmpguard.proxy.listening.socket_file import is_unused
from qmpguard.rate import LogRate
from qmpguard.tasks import Tasks

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping

    from qmpguard.daemon.guard import GuardedVm
    from qmpguard.daemon.supervisor import Supervisor
    from qmpguard.proxy.judging.overrides import Overrides
    from qmpguard.record import Override, Peer

log = logging.getLogger(__name__)

Object: TypeAlias = dict[str, object]

#: part of every console's name
NAME = "qmpguard-console"
#: root's runtime directory
RUN = Path("/run")
#: connections at a time; the command `override` makes two, one after the other
MAX_CONNECTIONS = 8
#: bytes of a request
MAX_REQUEST = 16 * 1024
#: seconds for a request and its answer
REQUEST_TIMEOUT = 5.0
#: seconds that an override may last; a longer change belongs into the configuration
MAX_SECONDS = 24 * 3600.0
#: characters of a reason
MAX_REASON = 500
#: lines of log about refused processes in a minute: QEMU can be made to try again and again
LOG_LINES, LOG_INTERVAL = 2, 60.0


def socket_paths(environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield the possible paths of this process's console, in order of preference.

    The last is an abstract name, which begins with a zero byte. It is always possible.
    """
    if directory := environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
        yield f"{directory}/{NAME}.sock"
    own = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    for folder in (own, RUN) if os.geteuid() == 0 else (own,):
        if _is_private(folder):
            yield f"{folder}/{NAME}-{os.getpid()}.sock"
    yield f"\0{NAME}-{os.getpid()}-{os.urandom(4).hex()}"


def remove_stale(folder: Path) -> None:
    """Remove the sockets of consoles whose process was killed."""
    for path in folder.glob(f"{NAME}-*.sock"):
        pid = path.stem.rpartition("-")[2]
        with suppress(OSError):
            if not Path(f"/proc/{pid}").exists() and path.is_socket() and is_unused(path):
                path.unlink()


def _is_private(folder: Path) -> bool:
    """Say whether only this user can create and remove files in a directory."""
    try:
        status = folder.stat()
    except OSError:
        return False
    ours = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return ours and stat.S_ISDIR(status.st_mode) and os.access(folder, os.W_OK)


def _not_permitted(peer: Peer) -> str | None:
    """Return why a peer is refused; None where it is not."""
    return None if peer.uid in (0, os.geteuid()) else "neither root nor the guard's own user"


class Console:
    """A server that answers one request per connection: a line of JSON in, a line of JSON out.

    ``listener`` is its socket; None while it does not run.
    """

    def __init__(self, supervisor: Supervisor, *paths: str) -> None:
        self.listener: Listener | None = None
        self._supervisor = supervisor
        self._paths = paths
        self._tasks = Tasks()
        self._connections = 0
        self._rate = LogRate(LOG_LINES, LOG_INTERVAL)

    async def run(self) -> None:
        """Serve until cancelled. Where no socket can be opened, logs a warning and returns."""
        self.listener = self._open()
        if self.listener is None:
            return
        try:
            async with Tasks("console") as self._tasks:
                await asyncio.get_running_loop().create_future()
        finally:
            self.listener.close()

    def _open(self) -> Listener | None:
        """Return a listener at the first path that can be opened; None where none can."""
        errors = []
        for path in self._paths:
            if not path.startswith("\0"):
                remove_stale(Path(path).parent)
            try:
                return Listener(UnixAddress(path), self._accepted, label="console", refuse=self._refusal)
            except UnavailableError as error:
                errors.append(str(error))
        log.warning("no overrides are possible: %s", "; ".join(errors))
        return None

    def _refusal(self, peer: Peer) -> str | None:
        if self._connections >= MAX_CONNECTIONS:
            return _not_permitted(peer) or f"{MAX_CONNECTIONS} conversations already"
        return _not_permitted(peer)

    def _accepted(self, sock: socket.socket, peer: Peer) -> None:
        self._connections += 1
        self._tasks.start("conversation", self._handle(sock, peer))

    async def _handle(self, sock: socket.socket, peer: Peer) -> None:
        try:
            await self._serve(sock, peer)
        finally:
            self._connections -= 1

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
        except Exception as error:  # noqa: BLE001 -- the client gets an error, and the log has the trace
            self._tasks.record("conversation", error)
            return json.dumps({"error": f"the guard failed at this request: {error!r}"})

    async def _do(self, data: bytes, peer: Peer) -> str:
        """Return the answer to a request, as JSON."""
        try:
            request = json.loads(data)
        except (ValueError, RecursionError):
            raise UsageError("the request is not JSON") from None
        match request:
            case {"vms": True}:
                return await self._vms()
            case {"status": True}:
                return json.dumps([_vm(name, guard.vm.overrides) for name, guard in self._supervisor.guards.items()])
            case {"policy": [*addresses]}:
                guards = self._supervisor.guards.items()
                return json.dumps([_policy_answer(name, guard) for name, guard in guards if _at(guard, addresses)])
            case {"begin": {"vm": str(vm), "rule": str() | None as rule, "seconds": seconds, "reason": str(reason)}}:
                self._reject_qemu(peer)
                overrides = self._of(vm)
                override = overrides.begin(self._rule(vm, rule), _seconds(seconds), _reason(reason), peer)
                return json.dumps(_override(override))
            case {"end": {"vm": str(vm), "rule": str() | None as rule}}:
                self._reject_qemu(peer)
                return json.dumps(self._of(vm).end(self._rule(vm, rule)))
            case _:
                raise UsageError("this version does not know the request")

    def _reject_qemu(self, peer: Peer) -> None:
        """Raise `UsageError` for a guarded QEMU, and for a process that one has started."""
        qemus = {name: guard.vm.process for name, guard in self._supervisor.guards.items()}
        if (reason := why_refused(peer, qemus)) is None:
            return
        if (more := self._rate.admit(None, asyncio.get_running_loop().time())) is not None:
            log.warning("console client=%s refused: %s%s", peer, reason, more)
        raise UsageError(f"refused: {reason}")

    async def _vms(self) -> str:
        """Return every VM as `/api/v1/vms` has it. Other tasks have their turn between two VMs."""
        from qmpguard.admin.serialize import vm

        encoded = []
        for guard in tuple(self._supervisor.guards.values()):
            encoded.append(json.dumps(vm(guard.vm.snapshot(), self._supervisor.run)))
            await asyncio.sleep(0)
        return f"[{', '.join(encoded)}]"

    def _of(self, vm: str) -> Overrides:
        guard = self._supervisor.guards.get(vm)
        if guard is None:
            raise UsageError(f"there is no VM {vm!r} here; there are {', '.join(self._supervisor.guards)}")
        return guard.vm.overrides

    def _rule(self, vm: str, rule: str | None) -> str | None:
        known = [name for name, _ in modes(self._supervisor.guards[vm].vm.gate.policy)]
        if rule is not None and rule not in known:
            raise UsageError(f"there is no rule {rule!r}; there are {', '.join(known)}")
        return rule


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_SECONDS:
        raise UsageError(f"an override lasts more than 0 and at most {MAX_SECONDS:.0f} s")
    return value


def _reason(text: str) -> str:
    reason = " ".join(text.split())
    if not reason or len(reason) > MAX_REASON or not reason.isprintable():
        raise UsageError(f"a reason is a printable text of 1 to {MAX_REASON} characters, for the audit")
    return reason


def _vm(name: str, overrides: Overrides) -> Object:
    return {"vm": name, "overrides": [_override(override) for override in overrides.active]}


def _override(override: Override) -> Object:
    return {"rule": override.rule, "until": override.until, "reason": override.reason, "by": override.peer.uid}


def _at(guard: GuardedVm, addresses: list[object]) -> bool:
    """Say whether a VM's socket has one of some addresses, as configured or as getsockname(2) returns it."""
    return str(guard.config.listen) in addresses or (guard.listener is not None and guard.listener.name in addresses)


def _policy_answer(name: str, guard: GuardedVm) -> Object:
    """Return a VM's effective policy, with its overrides, and the facts that its guard remembers."""
    vm = guard.vm
    answer = _vm(name, vm.overrides)
    return answer | {"policy": policy_to_json(vm.overrides.policy), "memory": memory_to_json(vm.gate.known)}
