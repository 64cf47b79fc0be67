"""Decisions for OpenTelemetry: a collector in this process takes what the guard sends by OTLP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from qmpguard.logs import otel
from qmpguard.logs.otel import Telemetry
from tests.support.fakes.qemu import FakeQemu
from tests.support.guarding import assert_refused, capabilities, connected, eventually, guarding

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    import pytest


class Collector:
    """What has been received; it answers nobody until ``answers`` is set."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.logs = ExportLogsServiceRequest()
        self.spans = ExportTraceServiceRequest()

    async def take_logs(self, request: web.Request) -> web.Response:
        self.logs.MergeFromString(await request.read())
        return web.Response(body=b"", content_type="application/x-protobuf")

    async def take_spans(self, request: web.Request) -> web.Response:
        await self.answers.wait()
        self.spans.MergeFromString(await request.read())
        return web.Response(body=b"", content_type="application/x-protobuf")


@asynccontextmanager
async def collecting(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/logs", collector.take_logs)
    app.router.add_post("/v1/traces", collector.take_spans)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}")
    try:
        yield collector
    finally:
        await runner.cleanup()


async def test_a_refusal_is_a_log_record_in_the_span_of_its_judging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting(monkeypatch) as collector:
        telemetry = Telemetry()
        async with (
            FakeQemu(tmp_path / "q") as qemu,
            guarding(qemu.path) as guard,
            connected(tmp_path / "guard.sock") as qmp,
        ):
            guard.vm.journal.listen(telemetry.on_entry)
            qemu.devices["gpu0"] = "vfio-pci"
            reply = await qmp.ask("migrate-set-capabilities", capabilities(postcopy_ram=True))
            assert_refused(reply, "vfio-postcopy")
            await qmp.ask("migrate", {"uri": "tcp:h:1"})
        await telemetry.close()
    (resource,) = collector.logs.resource_logs
    assert ("service.name", "qmpguard") in {(a.key, a.value.string_value) for a in resource.resource.attributes}
    refused, allowed = resource.scope_logs[0].log_records
    assert refused.body.string_value == reply["error"]["desc"]
    assert (refused.severity_text, allowed.severity_text) == ("WARN", "INFO")
    attributes = {a.key: a.value for a in refused.attributes}
    assert attributes["qmpguard.vm"].string_value == "test"
    assert attributes["qmpguard.rule"].string_value == "vfio-postcopy"
    assert [v.string_value for v in attributes["qmpguard.devices"].array_value.values] == ["gpu0"]
    first, second = collector.spans.resource_spans[0].scope_spans[0].spans
    assert (first.name, second.name) == ("judge migrate-set-capabilities", "judge migrate")
    assert (refused.trace_id, refused.span_id) == (first.trace_id, first.span_id)
    assert first.end_time_unix_nano > first.start_time_unix_nano


async def test_a_collector_that_is_away_holds_nobody_up_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otel, "FLUSH_TIMEOUT", 0.05)
    async with collecting(monkeypatch) as collector:
        collector.answers.clear()
        telemetry = Telemetry()
        async with (
            FakeQemu(tmp_path / "q") as qemu,
            guarding(qemu.path) as guard,
            connected(tmp_path / "guard.sock") as qmp,
        ):
            guard.vm.journal.listen(telemetry.on_entry)
            await qmp.ask("migrate", {"uri": "tcp:h:1"})
        await telemetry.close()
        assert "could not be sent within" in caplog.text
        collector.answers.set()
        await eventually(lambda: telemetry.closed)


def test_off_it_is_not_even_imported() -> None:
    script = "import sys, qmpguard.daemon.serve; print('opentelemetry' in sys.modules, 'aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_without_the_extra_it_says_how_to_get_it() -> None:
    script = "import sys; sys.modules['opentelemetry'] = None; import qmpguard.logs.otel"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("qmpguard.errors.ConfigError: OpenTelemetry is not installed")
