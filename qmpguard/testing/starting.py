"""Starts QEMUs and guards for fixtures, and ends them at the end of the test, the last one first."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpguard.demo.qemu import Qemu
from qmpguard.embedding import guarding
from qmpguard.testing.machines import GuardedQemu, TestedQemu

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from qmpguard.policy.policy import Policy
    from qmpguard.testing.background import Background


class Starter:
    """What was started for one fixture. Each has a folder of its own below ``folder``."""

    def __init__(self, background: Background, folder: Path) -> None:
        self._background = background
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def qemu(self, binary: Path, arguments: Sequence[str], **options: Any) -> TestedQemu:
        """Start a QEMU. Raises `QemuDied` where it ends at once."""
        qemu = Qemu(binary, self._new_folder(), arguments, **{"machine": "pc", **options})
        running = self._stack.enter_context(self._background.holding(qemu))
        found = TestedQemu(*running.monitors, pid=running.process.pid)
        self._stack.callback(found.close)
        return found

    def guard(self, qemu: TestedQemu | Path | str, policy: Policy) -> GuardedQemu:
        """Put a guard before a QEMU, or a QMP socket. Raises `UnavailableError` where QEMU does not answer."""
        qemu = qemu if isinstance(qemu, TestedQemu) else TestedQemu(Path(qemu))
        path = self._new_folder() / "guard.sock"
        guard = self._stack.enter_context(self._background.holding(guarding(str(qemu.path), str(path), policy=policy)))
        found = GuardedQemu(path, qemu, guard, self._background)
        self._stack.callback(found.close)
        return found

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))
