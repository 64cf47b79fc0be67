"""`qmpguard run` starts soon: what it does not need is not imported."""

from __future__ import annotations

import subprocess
import sys

#: libraries of other commands and of what was not asked for, and what the standard library makes of a careless import
UNNEEDED = {
    *("aiohttp", "prometheus_client", "opentelemetry", "yarl", "msgspec"),
    *("_ssl", "ssl", "qemu.qmp"),
    *("email", "http", "hashlib", "hmac", "multiprocessing", "random", "secrets", "tempfile", "tomllib", "unittest"),
    *("qmpguard.admin", "qmpguard.demo", "qmpguard.logs.otel"),
}
SCRIPT = """
import sys
sys.argv = ["qmpguard", "run", "--qemu", "/nowhere/qemu", "--listen", "/nowhere/listen"]
import qmpguard.__main__ as command
command.import_asyncio()
import asyncio
asyncio.run = lambda serving, **_: serving.close()
command.start()
print(*sys.modules)
"""
HELP = """
import contextlib, sys
sys.argv = ["qmpguard", "run", "--help"]
from qmpguard.__main__ import start
with contextlib.suppress(SystemExit):
    start()
print(*sys.modules)
"""
TLS = """
import sys
from qmpguard.__main__ import import_asyncio
import_asyncio()
import asyncio, ssl
print(asyncio.sslproto.ssl, ssl.create_default_context().check_hostname)
"""


def modules(script: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_run_imports_nothing_that_it_does_not_need() -> None:
    imported = modules(SCRIPT) - modules("import sys; print(*sys.modules)")  # the site's are no business of ours
    assert "qmpguard.proxy.hub" in imported
    assert sorted(UNNEEDED & imported) == []
    assert {name for name in imported if name.startswith("qmpguard.commands.")} == {"qmpguard.commands.run"}


def test_what_is_imported_later_has_tls() -> None:
    done = subprocess.run([sys.executable, "-c", TLS], capture_output=True, text=True, check=True)
    assert done.stdout == "None True\n"


def test_the_command_itself_begins_without_tls() -> None:
    imported = modules(HELP)
    assert "asyncio.sslproto" in imported
    assert "_ssl" not in imported
