"""What a process writes down: log, audit, traffic and systemd's journal, as its config says and a reload changes it."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from qmpguard.config import LogFormat
from qmpguard.errors import QmpguardError
from qmpguard.ledger.audit import Audit
from qmpguard.ledger.journald import Journald, is_ours
from qmpguard.ledger.linefile import LineFile
from qmpguard.ledger.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable

    from qmpguard.config import LogConfig
    from qmpguard.record import Entry, Peer
    from qmpguard.wire.messages import Request

log = logging.getLogger(__name__)

TEXT = "%(asctime)s %(levelname)s %(message)s"
TIME = "%Y-%m-%dT%H:%M:%S%z"


class Source(Protocol):
    """Whose happenings are written down: all VMs of a process."""

    remarks: list[Callable[[], str]]

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Tell somebody of everything that happens."""
        ...

    def overhear(self, traffic: Callable[[str, Peer, Request], None] | None) -> None:
        """Show somebody every request; None: nobody."""
        ...


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON, with its trace if it has one."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr(config: LogConfig) -> None:
    """Log as a config says, from now on."""
    handler = logging.StreamHandler(sys.stderr)
    json_lines = config.format is LogFormat.JSON
    handler.setFormatter(JsonFormatter() if json_lines else logging.Formatter(TEXT, TIME))
    if is_ours():
        handler.addFilter(lambda record: not hasattr(record, "on_record"))  # the journal gets it with its fields
    level = logging.getLevelNamesMapping()[config.level.value.upper()]
    logging.basicConfig(level=level, handlers=[handler], force=True)


class Logbook:
    """The files of a process. Raises `ConfigError` when one cannot be opened at the beginning."""

    def __init__(self, config: LogConfig, fleet: Source) -> None:
        self._config = config
        self._fleet = fleet
        self._audit = LineFile(config.audit) if config.audit else None
        self._traffic = LineFile(config.traffic) if config.traffic else None
        self._journal = Journald() if is_ours() else None
        self._attend()
        fleet.remarks.append(self._remark)
        fleet.listen(self._heard)

    def follow(self, config: LogConfig) -> None:
        """Write as another config says. Where a new file cannot be opened, the old one goes on, and the log says so."""
        log_to_stderr(config)
        self._audit = _changed(self._audit, config.audit)
        self._traffic = _changed(self._traffic, config.traffic)
        self._config = config
        self._attend()

    def reopen(self) -> None:
        """Go on in new files: the old ones were moved away."""
        for file in (self._audit, self._traffic):
            if file is not None:
                file.reopen()

    def close(self) -> None:
        """Write what is still to be written."""
        for file in (self._audit, self._traffic, self._journal):
            if file is not None:
                file.close()

    def _attend(self) -> None:
        traffic = None if self._traffic is None else Traffic(self._traffic, self._config.exclude).passed
        self._fleet.overhear(traffic)

    def _heard(self, entry: Entry) -> None:
        if self._audit is not None:
            Audit(self._audit).heard(entry)
        if self._journal is not None:
            self._journal.heard(entry)

    @property
    def lost(self) -> dict[str, int]:
        """Lines that could not be written, by where they should be; what is not written at all is absent."""
        files = {"audit": self._audit, "traffic": self._traffic, "journal": self._journal}
        return {name: file.lost for name, file in files.items() if file is not None}

    def _remark(self) -> str:
        return "; ".join(f"the {name} has lost {lines} lines" for name, lines in self.lost.items() if lines)


def _changed(file: LineFile | None, path: str | None) -> LineFile | None:
    """Return the file at a path: the one that is open, or another in its place."""
    if file is not None and file.path == path:
        return file
    fresh = None
    if path is not None:
        try:
            fresh = LineFile(path)
        except QmpguardError as error:
            log.error("%s; going on as before", error)
            return file
    if file is not None:
        with suppress(OSError):
            file.close()
    return fresh
