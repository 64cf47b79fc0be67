"""What a process writes down: log, audit, traffic and systemd's journal, as its config says and a reload changes it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from qmpguard.config import LogConfig
from qmpguard.errors import ConfigError
from qmpguard.logs.audit import Audit
from qmpguard.logs.journald import Journald, is_ours
from qmpguard.logs.linefile import CONFESSION, LAST_WORDS, LineFile
from qmpguard.logs.stderr import log_to_stderr, stderr_log
from qmpguard.logs.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.record import Entry, Peer
    from qmpguard.wire.client_messages import Request

log = logging.getLogger(__name__)

#: files that are being closed, or given up while they do not open, at once; each has a thread that may hang
MAX_ENDING = 16


class JournalSource(Protocol):
    """Whose happenings are written down: all VMs of a process."""

    remarks: list[Callable[[], str]]

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Tell somebody of everything that happens."""
        ...

    def set_request_log(self, traffic: Callable[[str, Peer, Request], None] | None) -> None:
        """Show somebody every request; None: nobody."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A log config that can be followed: its files are open. Either `Logbook.follow` or `Logbook.discard` takes it."""

    config: LogConfig
    audit: LineFile | None
    traffic: LineFile | None

    @property
    def files(self) -> dict[str, LineFile]:
        """The files, by what is written into them."""
        return {name: file for name, file in (("audit", self.audit), ("traffic", self.traffic)) if file is not None}


class Logbook:
    """The files of a process. Raises `ConfigError` when one cannot be opened at the beginning."""

    def __init__(self, config: LogConfig, fleet: JournalSource) -> None:
        self._ending: list[tuple[str, LineFile]] = []
        self._past: Counter[str] = Counter()  # lines lost by files that are closed
        self._now = Prepared(LogConfig(), None, None)
        self._now = self._begun(config)
        for file in self._now.files.values():
            file.wait_opened()
        self._fleet = fleet
        self._journal = Journald() if is_ours() else None
        if self._journal is not None and (handler := stderr_log()) is not None:
            handler.is_recorded = self._journal.has_taken
        self._attend()
        fleet.remarks.append(self._remark)
        fleet.listen(self._heard)

    async def prepare(self, config: LogConfig) -> Prepared:
        """Open the files that another config names. Raises `ConfigError`, and then nothing has changed."""
        prepared = self._begun(config)
        try:
            for file in self._new(prepared).values():
                await file.opened()
        except BaseException:
            self.discard(prepared)
            raise
        return prepared

    def follow(self, prepared: Prepared) -> None:
        """Write as another config says from now on. Never fails: its files are open."""
        log_to_stderr(prepared.config)
        before, self._now = self._now, prepared
        self._end({name: file for name, file in before.files.items() if file not in prepared.files.values()})
        self._attend()

    def discard(self, prepared: Prepared) -> None:
        """Close the files of a config that is not followed after all."""
        self._end(self._new(prepared))

    def reopen(self) -> None:
        """Go on in new files: the old ones were moved away."""
        for file in self._now.files.values():
            file.reopen()

    def close(self) -> None:
        """Write what is still to be written, all files at the same time and each as long as it may take."""
        self._end(self._now.files)
        deadline = time.monotonic() + LAST_WORDS + CONFESSION
        for _, file in self._ending:
            file.close(deadline - time.monotonic())
        if self._journal is not None:
            self._journal.close()

    @property
    def lost(self) -> dict[str, int]:
        """Lines that could not be written, by where they should be; what is not written at all is absent."""
        lost = {name: file.lost + self._past[name] for name, file in self._now.files.items()}
        for name, file in self._ending:
            if name in lost:
                lost[name] += file.lost
        if self._journal is not None:
            lost["journal"] = self._journal.lost
        if (handler := stderr_log()) is not None:
            lost["log"] = handler.lost
        return lost

    def _begun(self, config: LogConfig) -> Prepared:
        """Return files for a config, those that are in use already and others that begin to open."""
        self._forget()
        return Prepared(config, _file(config.audit, self._now.audit), _file(config.traffic, self._now.traffic))

    def _new(self, prepared: Prepared) -> dict[str, LineFile]:
        used = self._now.files.values()
        return {name: file for name, file in prepared.files.items() if file not in used}

    def _end(self, files: dict[str, LineFile]) -> None:
        for name, file in files.items():
            file.end()
            self._ending.append((name, file))

    def _forget(self) -> None:
        """Keep of the files that have ended only what they have lost. Raises `ConfigError` where too many hang."""
        for name, file in self._ending:
            self._past[name] += file.lost if file.has_ended else 0
        self._ending = [(name, file) for name, file in self._ending if not file.has_ended]
        if len(self._ending) >= MAX_ENDING:
            raise ConfigError(f"{len(self._ending)} files hang that were written before, as {self._ending[0][1].path}")

    def _attend(self) -> None:
        traffic = self._now.traffic
        self._fleet.set_request_log(None if traffic is None else Traffic(traffic, self._now.config.exclude).passed)

    def _heard(self, entry: Entry) -> None:
        if self._now.audit is not None:
            Audit(self._now.audit).heard(entry)
        if self._journal is not None:
            self._journal.heard(entry)

    def _remark(self) -> str:
        return "; ".join(f"the {name} has lost {lines} lines" for name, lines in self.lost.items() if lines)


def _file(path: str | None, present: LineFile | None) -> LineFile | None:
    """Return the file at a path: the one that is open, or another in its place."""
    if path is None:
        return None
    return present if present is not None and present.path == path else LineFile(path)
