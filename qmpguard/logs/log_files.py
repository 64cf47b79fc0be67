"""The log outputs of a process, by its config: log, audit, traffic, recording, journal. A reload changes them."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qmpguard.config import LogConfig
from qmpguard.errors import ConfigError
from qmpguard.logs.audit import Audit
from qmpguard.logs.conversation import ConversationLog
from qmpguard.logs.journald import Journald, is_ours
from qmpguard.logs.linefile import FLUSH_TIMEOUT, NOTICE_TIMEOUT, LineFile
from qmpguard.logs.stderr import log_to_stderr, stderr_log
from qmpguard.logs.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.policy.facts import Facts
    from qmpguard.policy.policy import Policy
    from qmpguard.proxy.clients.interfaces import TrafficLog
    from qmpguard.proxy.clients.pending import PendingRequest
    from qmpguard.record import Entry, Peer
    from qmpguard.wire.client_messages import Request

log = logging.getLogger(__name__)

#: files that are being closed or opened in vain at the same time; each has a thread that may hang
MAX_ENDING = 16


class EntrySource(Protocol):
    """The source of entries and requests: all VMs of a process."""

    remarks: list[Callable[[], str]]

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Call ``listener`` with each new entry."""
        ...

    def policy(self, vm: str) -> tuple[Policy, frozenset[str]]:
        """Return the policy of a VM at this moment, and the names of the guard's own sockets."""
        ...

    def remembered(self, vm: str) -> Facts:
        """Return what the guard remembers of a VM's QEMU at this moment."""
        ...

    def set_request_log(self, traffic: TrafficLog | None) -> None:
        """Tell ``traffic`` every request and reply; None: stop it."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedLog:
    """A log config with its open files. `LogFiles.apply` or `LogFiles.discard` takes it."""

    config: LogConfig
    audit: LineFile | None
    traffic: LineFile | None
    record: LineFile | None = None

    @property
    def files(self) -> dict[str, LineFile]:
        """The files, by their names in ``lost``."""
        named = {"audit": self.audit, "traffic": self.traffic, "record": self.record}
        return {name: file for name, file in named.items() if file is not None}


class _Both:
    """A traffic file and a recording, told the same."""

    def __init__(self, *logs: TrafficLog) -> None:
        self._logs = logs

    def on_request(self, vm: str, peer: Peer, request: Request) -> None:
        for one in self._logs:
            one.on_request(vm, peer, request)

    def on_reply(self, vm: str, pending: PendingRequest, reply: bytes) -> None:
        for one in self._logs:
            one.on_reply(vm, pending, reply)


class LogFiles:
    """The log files of a process. Raises `ConfigError` when one cannot be opened at the start."""

    def __init__(self, config: LogConfig, source: EntrySource) -> None:
        self._ending: list[tuple[str, LineFile]] = []
        self._past: Counter[str] = Counter()  # lines lost in files that are closed
        self._conversations: ConversationLog | None = None
        self._now = PreparedLog(LogConfig(), None, None)
        self._now = self._open_files(config)
        for file in self._now.files.values():
            file.wait_opened()
        self._source = source
        self._recorded: LineFile | None = None  # the file that the present recording is in
        self._journal = Journald() if is_ours() else None
        if self._journal is not None and (handler := stderr_log()) is not None:
            handler.is_recorded = self._journal.has_last_entry
        self._apply_request_log()
        source.remarks.append(self._remark)
        source.listen(self._on_entry)

    async def prepare(self, config: LogConfig) -> PreparedLog:
        """Open the files of another config. Raises `ConfigError`; then nothing has changed."""
        prepared = self._open_files(config)
        try:
            for file in self._new(prepared).values():
                await file.opened()
        except BaseException:
            self.discard(prepared)
            raise
        return prepared

    def apply(self, prepared: PreparedLog) -> None:
        """Apply another config. Never fails, since its files are open."""
        log_to_stderr(prepared.config)
        before, self._now = self._now, prepared
        self._end({name: file for name, file in before.files.items() if file not in prepared.files.values()})
        self._apply_request_log()

    def discard(self, prepared: PreparedLog) -> None:
        """Close the new files of a config that is not applied."""
        self._end(self._new(prepared))

    def reopen(self) -> None:
        """Reopen the files: they were rotated."""
        for file in self._now.files.values():
            file.reopen()
        if self._conversations is not None:
            self._conversations.begin()

    def close(self) -> None:
        """Flush and close all files at the same time, within `FLUSH_TIMEOUT` and `NOTICE_TIMEOUT`."""
        self._end(self._now.files)
        deadline = time.monotonic() + FLUSH_TIMEOUT + NOTICE_TIMEOUT
        for _, file in self._ending:
            file.close(deadline - time.monotonic())
        if self._journal is not None:
            self._journal.close()

    @property
    def lost(self) -> dict[str, int]:
        """Lines that could not be written, by output. An output that is not configured is absent."""
        lost = {name: file.lost + self._past[name] for name, file in self._now.files.items()}
        for name, file in self._ending:
            if name in lost:
                lost[name] += file.lost
        if self._journal is not None:
            lost["journal"] = self._journal.lost
        if (handler := stderr_log()) is not None:
            lost["log"] = handler.lost
        return lost

    def _open_files(self, config: LogConfig) -> PreparedLog:
        """Return the files of a config: those that are open already, and new ones that begin to open."""
        self._forget()
        now = self._now
        return PreparedLog(
            config,
            _file(config.audit, now.audit),
            _file(config.traffic, now.traffic),
            _file(config.record, now.record, alone=True),
        )

    def _new(self, prepared: PreparedLog) -> dict[str, LineFile]:
        used = self._now.files.values()
        return {name: file for name, file in prepared.files.items() if file not in used}

    def _end(self, files: dict[str, LineFile]) -> None:
        for name, file in files.items():
            file.end()
            self._ending.append((name, file))

    def _forget(self) -> None:
        """Drop the files that have ended, and keep their counts. Raises `ConfigError` where too many hang."""
        for name, file in self._ending:
            self._past[name] += file.lost if file.has_ended else 0
        self._ending = [(name, file) for name, file in self._ending if not file.has_ended]
        if len(self._ending) >= MAX_ENDING:
            raise ConfigError(f"{len(self._ending)} earlier log files hang, for example {self._ending[0][1].path}")

    def _apply_request_log(self) -> None:
        now, exclude = self._now, self._now.config.exclude
        traffic = None if now.traffic is None else Traffic(now.traffic, exclude)
        if now.record is None or self._recorded is not now.record:
            self._conversations = None if now.record is None else ConversationLog(now.record, self._source)
        self._recorded = now.record
        logs = [one for one in (traffic, self._conversations) if one is not None]
        self._source.set_request_log(_Both(*logs) if logs else None)

    def _on_entry(self, entry: Entry) -> None:
        if self._now.audit is not None:
            Audit(self._now.audit).on_entry(entry)
        if self._conversations is not None:
            self._conversations.on_entry(entry)
        if self._journal is not None:
            self._journal.on_entry(entry)

    def _remark(self) -> str:
        return "; ".join(f"the {name} has lost {lines} lines" for name, lines in self.lost.items() if lines)


def _file(path: str | None, present: LineFile | None, *, alone: bool = False) -> LineFile | None:
    """Return the file at a path: the present one, or a new one where the path differs."""
    if path is None:
        return None
    return present if present is not None and present.path == path else LineFile(path, alone=alone)
