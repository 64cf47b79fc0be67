"""`qmpguard run` starts soon: what it does not need is not imported."""

from __future__ import annotations

import subprocess
import sys

#: libraries of other commands and of what was not asked for, and what the standard library makes of a careless import
UNNEEDED = {
    *("aiohttp", "prometheus_client", "opentelemetry", "yarl", "msgspec"),
    *("email", "http", "hashlib", "hmac", "multiprocessing", "random", "secrets", "tempfile", "tomllib", "unittest"),
    *("qmpguard.admin", "qmpguard.demo", "qmpguard.otel"),
}
SCRIPT = """
import asyncio, sys
from qmpguard.cli import main
asyncio.run = lambda serving, **_: serving.close()
main(["run", "--qemu", "/nowhere/qemu", "--listen", "/nowhere/listen"])
print(*sys.modules)
"""


def test_run_imports_nothing_that_it_does_not_need() -> None:
    # without the site's own imports, which are no business of ours
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True)
    modules = set(done.stdout.split()) - set(before.stdout.split())
    assert "qmpguard.proxy.hub" in modules
    assert sorted(UNNEEDED & modules) == []
    assert {name for name in modules if name.startswith("qmpguard.commands.")} == {"qmpguard.commands.run"}
