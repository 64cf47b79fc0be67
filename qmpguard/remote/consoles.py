"""A client of the consoles of the guards on this machine. `qmpguard.daemon.console` is the server."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpguard.daemon.console import MAX_REQUEST, NAME, REQUEST_TIMEOUT
from qmpguard.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: consoles that are asked at once: each may take `REQUEST_TIMEOUT`, and a host has some tens
MAX_PARALLEL = 64
#: bytes of an answer at most: every member of a thousand VMs with some hundred clients each
MAX_ANSWER = 32 << 20
#: the paths of consoles that are files
_FILE = re.compile(rf"/{NAME}(-[0-9]+)?\.sock$")
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class ConsoleInfo:
    """The console of a running guard: its path, the guard's process, and the overrides of each VM."""

    path: str
    pid: int
    vms: dict[str, list[dict[str, object]]]


def find_console(pid: int | None, vm: str | None) -> tuple[ConsoleInfo, str]:
    """Return the one console, and the one VM, that the arguments select. Raises `UsageError` or `UnavailableError`."""
    found = [one for one in all_consoles(pid) if vm is None or vm in one.vms]
    if not found:
        which = " and ".join([f"VM {vm}"] * (vm is not None) + [f"process {pid}"] * (pid is not None))
        raise UnavailableError(f"no guard {f'for {which} ' * bool(which)}answers; ask as its user or as root")
    if len(found) > 1:
        guards = " or ".join(f"--pid {one.pid} ({', '.join(one.vms)})" for one in found)
        raise UsageError(f"there are several guards: say {guards}")
    names = list(found[0].vms)
    if vm is None and len(names) != 1:
        raise UsageError(f"it guards several VMs: say --vm {' or --vm '.join(names)}")
    return found[0], vm or names[0]


def all_consoles(pid: int | None = None) -> Iterator[ConsoleInfo]:
    """Yield the consoles that answer: those of a process; None: all on this machine."""
    for path, owner, answer in _answers(pid, {"status": True}):
        with suppress(TypeError, KeyError):  # the answer is not a console's
            yield ConsoleInfo(path, owner, {one["vm"]: one["overrides"] for one in answer})


def all_vms(pid: int | None = None) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield each guard that answers: its process id, and its VMs as `/api/v1/vms` has them."""
    for _, owner, answer in _answers(pid, {"vms": True}):
        if isinstance(answer, list):
            yield owner, answer


def policies_at(address: str) -> Iterator[Any]:
    """Yield the console's answer to "policy" for each VM that has its clients' socket at an address."""
    names = [address]
    if address.startswith("unix:"):
        names.append(f"unix:{Path(address.removeprefix('unix:')).resolve()}")
    for _, _, answer in _answers(None, {"policy": names}):
        yield from answer if isinstance(answer, list) else ()


def _answers(pid: int | None, request: dict[str, object]) -> Iterator[tuple[str, int, Any]]:
    """Yield each console's path, process and answer. All are asked at the same time, since one may not answer."""
    seen = set()
    with ThreadPoolExecutor(MAX_PARALLEL) as pool:
        for path, future in [(path, pool.submit(_ask, path, request, pid)) for path in dict.fromkeys(_paths(pid))]:
            try:
                answer, owner = future.result()
            except (UnavailableError, UsageError):
                continue  # of another user, left behind, or of a version that does not know the request
            if (pid is None or owner == pid) and owner not in seen:
                seen.add(owner)
                yield path, owner, answer


def ask(found: ConsoleInfo, request: dict[str, object]) -> object:
    """Return a console's answer. Raises `UsageError` with its refusal, or `UnavailableError`."""
    return _ask(found.path, request)[0]


def _paths(pid: int | None) -> Iterator[str]:
    """Yield the possible paths of consoles: from the kernel's list of sockets, and in runtime directories."""
    try:
        lines = Path(f"/proc/{pid or 'self'}/net/unix").read_text(errors="replace").splitlines()
    except OSError as error:
        raise UnavailableError(f"process {pid}: {error.strerror}") from None
    for line in lines:
        name = line.rpartition(" ")[2]
        if name.startswith(f"@{NAME}-"):
            yield "\0" + name[1:]
        elif _FILE.search(name):
            yield from (name, f"/proc/{pid}/root{name}") if pid else (name,)  # the guard may be in a container
    for pattern in (f"qmpguard*/{NAME}.sock", f"user/*/{NAME}-*.sock", f"{NAME}-*.sock"):
        yield from (str(path) for path in Path("/run").glob(pattern))


def _ask(path: str, request: dict[str, object], wanted: int | None = None) -> tuple[Any, int]:
    """Return the answer, and the process that gave it.

    Raises `UnavailableError` for a process other than ``wanted``.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(REQUEST_TIMEOUT)
        try:
            sock.connect(path)
            pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if wanted not in (None, pid):
                raise UnavailableError(f"process {pid} listens there")
            if os.geteuid() not in (0, uid) and uid != 0:
                raise UnavailableError(f"user {uid} listens there")  # any user can listen at an abstract name
            sock.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(sock))
        except (OSError, ValueError, RecursionError) as error:
            raise UnavailableError(f"the guard does not answer: {error}") from None
    match answer:
        case {"error": str(refusal)}:
            raise UsageError(refusal)
        case {"return": result}:
            return result, pid
        case _:
            raise UnavailableError("the answer there is not a guard's")


def _line(sock: socket.socket) -> bytes:
    data, until = bytearray(), time.monotonic() + REQUEST_TIMEOUT
    while not data.endswith(b"\n") and len(data) <= MAX_ANSWER and time.monotonic() < until:
        if not (piece := sock.recv(MAX_REQUEST)):
            break
        data += piece
    return bytes(data)
