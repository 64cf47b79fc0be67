"""`qmpguard run` starts soon: what it does not need is not imported."""

from __future__ import annotations

import subprocess
import sys

#: libraries of other commands and of what was not asked for, and what the standard library makes of a careless import
UNNEEDED = {
    *("aiohttp", "prometheus_client", "opentelemetry", "yarl", "msgspec"),
    *("email", "http", "hashlib", "hmac", "multiprocessing", "random", "secrets", "tempfile", "tomllib", "unittest"),
    *("qmpguard.admin", "qmpguard.demo", "qmpguard.logs.otel"),
}
SCRIPT = """
import asyncio, sys
from qmpguard.cli import main
asyncio.run = lambda serving, **_: serving.close()
main(["run", "--qemu", "/nowhere/qemu", "--listen", "/nowhere/listen"])
print(*sys.modules)
"""


def modules(script: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_run_imports_nothing_that_it_does_not_need() -> None:
    imported = modules(SCRIPT) - modules("import sys; print(*sys.modules)")  # the site's are no business of ours
    assert "qmpguard.proxy.hub" in imported
    assert sorted(UNNEEDED & imported) == []
    assert {name for name in imported if name.startswith("qmpguard.commands.")} == {"qmpguard.commands.run"}
