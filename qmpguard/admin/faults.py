"""What goes wrong in the admin interface: counted by its kind; in the log once, with its trace, not once a request."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING

from aiohttp import ClientError
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import PayloadAccessError, RequestPayloadError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

#: kinds of faults that are told apart; what comes beyond is our own code's making, and is not logged again
MAX_KINDS = 100


class Drop(Enum):
    """Why a connection was closed, or a request not answered as it was meant."""

    MALFORMED = "malformed"  # it sent what is no HTTP
    TOO_SLOW = "too_slow"  # its request, or its reading of an answer, took too long
    IDLE = "idle"  # it asked for nothing for a long time
    TOO_MANY = "too_many"  # another one needed its place
    FELL_BEHIND = "fell_behind"  # a stream did not read what happened while it was kept
    FAULT = "fault"  # our own: the log has its trace


_MALFORMED = (HttpProcessingError, RequestPayloadError, PayloadAccessError, ClientError)


class Faults:
    """Counts the drops, and writes each kind of fault down once."""

    def __init__(self) -> None:
        self._drops: Counter[Drop] = Counter()
        self._kinds: set[tuple[str, str]] = set()

    @property
    def drops(self) -> Mapping[str, int]:
        """How many there were of each reason."""
        return {drop.value: self._drops[drop] for drop in Drop}

    def drop(self, drop: Drop) -> None:
        """Count one."""
        self._drops[drop] += 1

    def fault(self, where: str, error: BaseException) -> None:
        """Count an exception that is our own fault; the first of its kind is logged with its trace."""
        self.drop(Drop.FAULT)
        kind = (where, type(error).__name__)
        if kind not in self._kinds and len(self._kinds) < MAX_KINDS:
            self._kinds.add(kind)
            log.error("admin fault in %s: %r; only counted from now on", where, error, exc_info=error)
        else:
            log.debug("admin fault in %s again: %r", where, error)

    @contextmanager
    def kept(self, where: str) -> Iterator[None]:
        """Keep every exception of the block here."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- whatever it is: it must not end the process
            self.fault(where, error)

    def logger(self) -> logging.Logger:
        """Return the logger for aiohttp: what it reports is counted here, and malformed HTTP gets no trace.

        It belongs to no hierarchy: nothing that aiohttp says reaches a log in aiohttp's own form.
        """
        logger = logging.Logger("qmpguard.admin.http", logging.INFO)
        logger.addFilter(self._reported)
        return logger

    def _reported(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, _MALFORMED):
            self.drop(Drop.MALFORMED)
            log.debug("admin: malformed HTTP: %.200r", str(error))
        elif error is not None:
            self.fault("http", error)
        elif record.levelno >= logging.WARNING:
            log.warning("admin: %.500s", record.getMessage())
        return False
