"""Two identical QEMUs, one of them behind a guard, and clients that tell both the same and write down the answers.

The QEMUs and the guard live on an event loop in a thread of their own, so that the clients can be plain sockets.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qmpguard.demo.qemu import Qemu
from tests.support.conformance.transcript import messages
from tests.support.guarding import TIMEOUT, guarding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from qmpguard.policy.policy import Policy

#: An unfinished message before it is given up: 0xFF is an error in every state of QEMU's lexer.
END: Final = b'\xff\n{"execute": "query-name", "id": "the end"}'
_ENDED: Final = b'"id": "the end"}\r\n'

#: brackets that are too deep: each has an error for an answer, more of them than a socket holds. QEMU cuts short what
#: it holds back when its client has sent its last byte (see the differences), so these are read first
DEEP: Final = 1000
#: seconds without an answer after which none is expected
QUIET: Final = 0.1
#: what a QEMU says that has aborted, see the differences
ABORTS: Final = b"QMP_REQ_QUEUE_LEN_MAX"

#: a reply to an out-of-band request, in its normal form: its own id, not one in an id of another
_OOB: Final = re.compile(r'^\{"id": "oob", |, "id": "oob"\}$')

NEGOTIATE: Final = b'{"execute": "qmp_capabilities"}'
NEGOTIATE_OOB: Final = b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}}'


@dataclass(frozen=True)
class Script:
    """What a client does: it sends ``bytes``, or waits until so many messages more have come (``int``).

    At the end it sends its last byte (shutdown) and reads until the other side closes. That is enough to have every
    reply, for QEMU reads on only when it has answered. Not so with out-of-band on, when it reads ahead and drops
    what it has not begun: with ``oob`` the script ends with a marker first, whose reply is waited for.
    """

    name: str
    steps: tuple[bytes | int, ...]
    oob: bool = False

    @property
    def data(self) -> bytes:
        return b"".join(step for step in self.steps if isinstance(step, bytes))


class Line:
    """A client's connection. It reads while it sends, as QEMU may stop to read until somebody takes its replies."""

    def __init__(self, path: Path) -> None:
        self.received = bytearray()
        self.ended = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(str(path))
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left and not self.ended:
            if self._ready(writing=True):
                try:
                    left = left[self._socket.send(left) :]
                except (BrokenPipeError, ConnectionResetError):
                    self._end("(broken)")

    def wait(self, lines: int) -> None:
        """Read until so many messages have come since the beginning."""
        while self.received.count(b"\r\n") < lines and not self.ended:
            self._ready()

    def read_marker(self) -> None:
        while not self.received.endswith(_ENDED) and not self.ended:
            self._ready()

    def settle(self) -> None:
        """Read until nothing comes for a while."""
        while not self.ended and select.select([self._socket], [], [], QUIET)[0]:
            self._ready()

    def finish(self) -> None:
        """Say that nothing more will be sent, and read to the end."""
        if not self.ended:
            self._socket.shutdown(socket.SHUT_WR)
        while not self.ended:
            self._ready()

    def _ready(self, *, writing: bool = False) -> bool:
        """Read what is there, waiting for it; say whether the socket takes bytes."""
        read, write, _ = select.select([self._socket], [self._socket] if writing else [], [], TIMEOUT)
        if not read and not write:
            self._end("(silence)")
        if read:
            try:
                data = self._socket.recv(1 << 18)
            except ConnectionResetError:
                self._end("(reset)")
                return False
            self.received += data
            self.ended = not data
        return bool(write)

    def _end(self, how: str) -> None:
        self.received += how.encode()
        self.ended = True


def play(path: Path, script: Script) -> list[str]:
    """Play a script to who listens at a path; return the messages that came, in their normal form."""
    line = Line(path)
    try:
        awaited = 0
        for step in script.steps:
            if isinstance(step, int):
                awaited += step
                line.wait(awaited)
            else:
                line.send(step)
        if script.oob:
            line.send(END)
            line.read_marker()
        elif max(map(script.data.count, (b"[", b"{"))) > DEEP:
            line.settle()
        line.finish()
    finally:
        line.close()
    received = messages(bytes(line.received))
    return by_order(received) if script.oob else received


def by_order(received: list[str]) -> list[str]:
    """Put the replies to out-of-band requests first: QEMU keeps the order of these, and that of the others."""
    return sorted(received, key=lambda message: not _OOB.search(message))


class Twins:
    """Two running QEMUs with the same command line, and a guard before the second."""

    def __init__(
        self,
        binary: Path,
        folder: Path,
        args: Sequence[str] = (),
        *,
        machine: str = "none",
        policy: Policy | None = None,
    ) -> None:
        self.version: tuple[int, ...] = ()
        self.straight = folder / "a" / "qmp0.sock"
        self.guarded = folder / "b" / "guard.sock"
        self._behind = (folder / "a" / "qmp1.sock", folder / "b" / "qmp1.sock")
        self._binary = binary
        self._machine = machine
        self._args = args
        self._policy = policy
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="twins")
        self._pool = ThreadPoolExecutor(2, "client")

    def __enter__(self) -> Self:
        for path in self._behind:
            path.parent.mkdir(exist_ok=True)
        self._thread.start()
        self._ready.wait(3 * TIMEOUT)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(3 * TIMEOUT)
        self._pool.shutdown()

    def play(self, script: Script) -> tuple[list[str], list[str]]:
        """Return what the client of QEMU and the client of the guard were sent."""
        straight, guarded = self._pool.map(play, (self.straight, self.guarded), (script, script))
        if b"stop" in script.data:
            self.resume()
        return straight, guarded

    def aborted(self) -> bool:
        """Say whether the QEMU without a guard has aborted, as a listed difference has it; then this is over."""
        return ABORTS in (self._behind[0].parent / "qemu.err").read_bytes()

    def resume(self) -> None:
        """Let both machines run again, as they did at first; on another monitor, which the guard does not see."""
        for path in self._behind:
            play(path, Script("cont", (NEGOTIATE + b'{"execute": "cont"}',)))

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:  # noqa: BLE001 -- it is raised again in the other thread
            self._failure = error
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for path in self._behind:
                await stack.enter_async_context(
                    Qemu(self._binary, path.parent, self._args, monitors=2, machine=self._machine)
                )
            guard = await stack.enter_async_context(
                guarding(
                    self._behind[1].with_name("qmp0.sock"), self.guarded, policy=self._policy, survey_timeout=TIMEOUT
                )
            )
            greeting = guard.vm.greeting
            assert greeting is not None
            self.version = tuple(map(int, greeting.version.split(".")))
            self._ready.set()
            await self._stop.wait()
