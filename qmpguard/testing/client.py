"""QMP clients for tests: a small one for tests that are no coroutines, and qemu.qmp's for those that are."""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from qemu.qmp import QMPClient

#: seconds for a reply
REPLY_TIMEOUT = 60.0


class QmpSocket:
    """A connection that is negotiated. ``events`` are those that came so far. Raises `OSError` where it breaks."""

    def __init__(self, path: Path | str, timeout: float = REPLY_TIMEOUT) -> None:
        self.events: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
            self._file = self._socket.makefile("rb")
            self.greeting = self._receive()
            self.execute("qmp_capabilities")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def execute(self, command: str, /, **arguments: object) -> dict[str, Any]:
        """Send a command and return its reply, with ``return`` or ``error``. Raises `OSError` where none comes."""
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while "event" in (message := self._receive()):
            self.events.append(message)
        return message

    def close(self) -> None:
        """Close the connection."""
        with closing(self._socket):
            self._file.close()

    def _receive(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the connection was closed before the reply")
        message: dict[str, Any] = json.loads(line)
        return message


@asynccontextmanager
async def qmp_client(path: Path | str) -> AsyncGenerator[QMPClient]:
    """Connect a `QMPClient` of qemu.qmp for as long as the block lasts. Raises what its `connect` raises."""
    from qemu.qmp import QMPClient

    client = QMPClient()
    await client.connect(str(path))
    try:
        yield client
    finally:
        await client.disconnect()
