"""The two formats of the log: text for people, and JSON with the same fields for log collectors."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from qmpguard.config import LogFormat
from qmpguard.logs.plain import cut, escaped, fields, rendered

TIME = "%Y-%m-%dT%H:%M:%S%z"
#: lines of a trace that are written: the last ones, which name the place of the error
MAX_TRACE = 60
#: the prefix of a trace's lines, so that none looks like a line of the log
_INDENT = "  | "


class TextFormatter(logging.Formatter):
    """Time, level and message on a line; a trace follows on indented lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text. A ``bare`` record is its message only."""
        message = rendered(record)
        if getattr(record, "bare", False):
            return message
        first = f"{self.formatTime(record, TIME)} {record.levelname} {message}"
        return "\n".join([first, *(_INDENT + line for line in trace(record))])


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON, with its fields, and with its trace if it has one."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "message": rendered(record),
        }
        if lines := trace(record):
            line["trace"] = "\n".join(lines)
        more = {**fields(record), **getattr(record, "fields", {})}
        line |= {name: value for name, value in more.items() if name not in line}
        return json.dumps(line)


def formatter(form: LogFormat) -> logging.Formatter:
    """Return the formatter of a log format."""
    return JsonFormatter() if form is LogFormat.JSON else TextFormatter()


def trace(record: logging.LogRecord) -> list[str]:
    """Return the lines of a record's trace, escaped and cut; an empty list without a trace. Never raises."""
    if not record.exc_info:
        return []
    try:
        lines = logging.Formatter().formatException(record.exc_info).splitlines()
    except Exception as error:  # noqa: BLE001 -- __str__ of an exception may raise
        return [f"the trace cannot be written: {type(error).__name__}"]
    return [cut(escaped(line)) for line in lines[-MAX_TRACE:]]
