"""The QEMUs that fixtures yield: where each listens, and one client that is connected on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qmpguard.testing.client import QmpSocket

if TYPE_CHECKING:
    from pathlib import Path

    from qmpguard.embedding import Guard
    from qmpguard.proxy.state.snapshot import Snapshot
    from qmpguard.record import Decision
    from qmpguard.simulator.monitor import SimulatedMonitor
    from qmpguard.testing.background import Background


class TestedQemu:
    """A QEMU in a test. ``path`` is its QMP socket. It takes one client at a time; a guard takes many.

    ``others`` are the paths of further monitors. ``pid`` is None where it is no process.
    """

    __test__ = False  # it is no class of tests

    def __init__(self, path: Path, *others: Path, pid: int | None = None) -> None:
        self.path = path
        self.others = others
        self.pid = pid
        self._client: QmpSocket | None = None
        self._opened: list[QmpSocket] = []

    @property
    def client(self) -> QmpSocket:
        """A client that is connected on first use, and until the test ends."""
        if self._client is None:
            self._client = self.connect()
        return self._client

    def connect(self, path: Path | None = None) -> QmpSocket:
        """Return one more client, which is closed when the test ends; ``path``: at another monitor."""
        client = QmpSocket(path or self.path)
        self._opened.append(client)
        return client

    def execute(self, command: str, /, **arguments: object) -> dict[str, Any]:
        """Send a command by `client`, and return its reply."""
        return self.client.execute(command, **arguments)

    def close(self) -> None:
        """Close all clients."""
        while self._opened:
            self._opened.pop().close()


class GuardedQemu(TestedQemu):
    """A QEMU behind a guard. ``path`` is the guard's socket, ``qemu`` the QEMU behind it."""

    def __init__(self, path: Path, qemu: TestedQemu, guard: Guard, background: Background) -> None:
        super().__init__(path)
        self.qemu = qemu
        self._guard = guard
        self._background = background

    @property
    def refused(self) -> int:
        """The number of commands that the guard has refused."""
        return self._background.call(lambda: self._guard.refused)

    def decisions(self) -> tuple[Decision, ...]:
        """Return the guard's decisions, oldest first."""
        return self._background.call(self._guard.decisions)

    def snapshot(self) -> Snapshot:
        """Return all that the guard knows of the VM."""
        return self._background.call(self._guard.snapshot)


class SimulatedByFixture(TestedQemu):
    """A simulated QEMU."""

    def __init__(self, path: Path, monitor: SimulatedMonitor) -> None:
        super().__init__(path)
        self._monitor = monitor

    @property
    def commands(self) -> list[str]:
        """The commands that it was sent after the negotiation, in their order."""
        return self._monitor.commands()
