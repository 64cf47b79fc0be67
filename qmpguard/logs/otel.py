"""OpenTelemetry: each decision as a log record in a span that covers the judgment, exported by OTLP.

OpenTelemetry's own environment variables configure the export (OTEL_EXPORTER_OTLP_ENDPOINT, ..._HEADERS). The exporters
have their own threads and bounded queues: an unreachable collector loses records, and delays nothing. The module is
imported only when it is configured.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from qmpguard.errors import ConfigError
from qmpguard.record import Decision, Outcome
from qmpguard.version import __version__

try:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import set_span_in_context
except ImportError as error:
    raise ConfigError(f"OpenTelemetry is not installed ({error.name}): pip install '.[otel]' in a checkout") from error

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from qmpguard.record import Entry

log = logging.getLogger(__name__)

#: seconds for the last records at the end
FLUSH_TIMEOUT = 3.0
_NANOSECONDS = 1_000_000_000


class Telemetry:
    """Exports decisions. `on_entry` is a listener of journals; it takes some microseconds per decision."""

    def __init__(self) -> None:
        self.closed = False
        resource = Resource.create({"service.name": "qmpguard", "service.version": __version__})
        self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._logs = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._logs.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
        self._tracer = self._spans.get_tracer("qmpguard", __version__)
        self._logger = self._logs.get_logger("qmpguard", __version__)

    def on_entry(self, entry: Entry) -> None:
        """Called with each new entry; exports decisions. Never raises."""
        if not isinstance(entry.what, Decision):
            return
        try:
            self._export(entry, entry.what)
        except Exception as error:  # the verdict must stand
            log.error("vm=%s a record for OpenTelemetry cannot be built: %r", entry.vm, error, exc_info=error)

    def _export(self, entry: Entry, decision: Decision) -> None:
        attributes = _attributes(entry.vm, decision)
        end = int(entry.time * _NANOSECONDS)
        begin = end - int(decision.took * _NANOSECONDS)
        span = self._tracer.start_span(f"judge {decision.command}", start_time=begin, attributes=attributes)
        warned = decision.outcome is not Outcome.ALLOWED
        record = LogRecord(
            timestamp=end,
            observed_timestamp=end,
            context=set_span_in_context(span),
            severity_number=SeverityNumber.WARN if warned else SeverityNumber.INFO,
            severity_text="WARN" if warned else "INFO",
            body=_body(decision),
            attributes=attributes,
            event_name="qmpguard.decision",
        )
        self._logger.emit(record)
        span.end(end_time=end)

    async def close(self) -> None:
        """Send the remaining records, within `FLUSH_TIMEOUT`."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        threading.Thread(target=self._shutdown, args=(loop, done), daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await done.wait()
        except TimeoutError:
            log.warning("the last records for OpenTelemetry could not be sent within %g s", FLUSH_TIMEOUT)

    def _shutdown(self, loop: asyncio.AbstractEventLoop, done: asyncio.Event) -> None:
        self._spans.shutdown()
        self._logs.shutdown()
        self.closed = True
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)


def _body(decision: Decision) -> str:
    if decision.text:
        return decision.text
    findings = decision.verdict.findings
    return findings[0].text(decision.ref) if findings else f"{decision.command}: {decision.outcome.value}"


def _attributes(vm: str, decision: Decision) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue | None] = {
        "qmpguard.vm": vm,
        "qmpguard.ref": decision.ref,
        "qmpguard.command": decision.command,
        "qmpguard.hmp": decision.hmp or None,
        "qmpguard.outcome": decision.outcome.value,
        "qmpguard.native": decision.qemu_check,
        "qmpguard.client.number": decision.peer.number,
        "qmpguard.client.pid": decision.peer.pid,
        "qmpguard.client.uid": decision.peer.uid,
        "qemu.version": decision.qemu,
    }
    if decision.verdict.findings:
        finding = decision.verdict.refusal or decision.verdict.findings[0]
        attributes |= {
            "qmpguard.rule": finding.rule,
            "qmpguard.mode": finding.mode.value,
            "qmpguard.devices": finding.problem.devices,
            "qmpguard.capability": finding.problem.capability,
        }
    return {name: value for name, value in attributes.items() if value is not None}
