"""Records every guard of a run: `RECORDED=FILE python -m pytest -p tests.support.recorded`, then `qmpguard replay`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmpguard.daemon.guard import GuardedVm
from qmpguard.logs.conversation import ConversationLog

if TYPE_CHECKING:
    from qmpguard.policy.facts import Facts
    from qmpguard.policy.policy import Policy

_begin = GuardedVm.__init__


class _File:
    """Appends lines to a file of its own: two guards of one test may have the same name."""

    _count = 0

    def __init__(self) -> None:
        _File._count += 1
        self._path = Path(f"{os.environ['RECORDED']}.{os.getpid()}.{_File._count}")

    def put(self, line: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(line + b"\n")

    def count(self) -> None:
        raise AssertionError("a line of the recording could not be built")


class _Policies:
    """The policy of one guard."""

    def __init__(self, guard: GuardedVm) -> None:
        self._guard = guard

    def policy(self, vm: str) -> tuple[Policy, frozenset[str]]:
        return self._guard.vm.gate.policy, self._guard.vm.gate.given.own

    def remembered(self, vm: str) -> Facts:
        return self._guard.vm.gate.known


def _recorded(self: GuardedVm, *arguments: Any, **options: Any) -> None:
    _begin(self, *arguments, **options)
    log = ConversationLog(_File(), _Policies(self))
    self.vm.journal.listen(log.on_entry)
    self.vm.hub.traffic = log


GuardedVm.__init__ = _recorded  # type: ignore[method-assign]
