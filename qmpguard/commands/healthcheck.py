"""``qmpguard healthcheck``: a liveness and readiness probe, for containers."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from qmpguard.errors import UnavailableError
from qmpguard.remote import admin

if TYPE_CHECKING:
    import argparse

SUMMARY = "check that a guard is alive"
DESCRIPTION = (
    "Ask the admin interface whether the guard is alive. Prints nothing and exits with 0 if it is, with 69 if not. "
    "With --ready, exits with 1 while the guard is alive but not connected to every QEMU, and says to which; on TCP it "
    "needs the token for that."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    admin.add_arguments(parser)
    parser.add_argument("--ready", action="store_true", help="also check that every QEMU is connected")


def execute(arguments: argparse.Namespace) -> int:
    """Send one request."""
    client = admin.AdminClient(arguments.admin, arguments.token_file if arguments.ready else None)
    status, body = client.get("/readyz" if arguments.ready else "/healthz")
    if arguments.ready and status == 503:
        print("\n".join(f"not ready: {reason}" for reason in _reasons(body)), file=sys.stderr)
        return 1
    if status != 200:
        raise UnavailableError(f"{arguments.admin}: it answers with status {status}")
    return 0


def _reasons(body: bytes) -> list[str]:
    """Return why a guard is not ready, each with its VM where the guard names them."""
    try:
        return [str(reason) for reason in json.loads(body)["reasons"]]
    except (ValueError, LookupError, TypeError):
        return ["it does not say why"]
