"""The faults of the admin interface: counted by reason, and logged once for each kind, with the trace."""

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

#: kinds of faults that are logged
MAX_KINDS = 100


class Drop(Enum):
    """The reason why a connection was closed, or a request failed."""

    MALFORMED = "malformed"  # the client sent no valid HTTP
    TOO_SLOW = "too_slow"  # the request, or the reading of the response, took too long
    IDLE = "idle"  # no request for a long time
    TOO_MANY = "too_many"  # the limit of connections was reached
    FELL_BEHIND = "fell_behind"  # a stream did not read entries before they left their ring
    FAULT = "fault"  # an exception in the guard: the log has the trace


_MALFORMED = (HttpProcessingError, RequestPayloadError, PayloadAccessError, ClientError)


class Faults:
    """Counts the drops, and logs each kind of fault once."""

    def __init__(self) -> None:
        self._drops: Counter[Drop] = Counter()
        self._kinds: set[tuple[str, str]] = set()

    @property
    def drops(self) -> Mapping[str, int]:
        """The number of drops by reason."""
        return {drop.value: self._drops[drop] for drop in Drop}

    def drop(self, drop: Drop) -> None:
        """Count a drop."""
        self._drops[drop] += 1

    def fault(self, where: str, error: BaseException) -> None:
        """Count an exception in the guard. The first of its kind is logged with its trace."""
        self.drop(Drop.FAULT)
        kind = (where, type(error).__name__)
        if kind not in self._kinds and len(self._kinds) < MAX_KINDS:
            self._kinds.add(kind)
            log.error("admin fault in %s: %r; only counted from now on", where, error, exc_info=error)
        else:
            log.debug("admin fault in %s again: %r", where, error)

    @contextmanager
    def contained(self, where: str) -> Iterator[None]:
        """Contain every exception of the block: count it as a fault."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- it must not end the process
            self.fault(where, error)

    def logger(self) -> logging.Logger:
        """Return a logger for aiohttp. Its reports are counted here; malformed HTTP gets no trace.

        The logger has no parent, so that no record of aiohttp reaches the log unchanged.
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
