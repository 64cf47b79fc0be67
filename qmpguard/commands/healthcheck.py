"""``qmpguard healthcheck``: does the guard live? For containers and probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.errors import UnavailableError
from qmpguard.visitor import Visitor, add_arguments

if TYPE_CHECKING:
    import argparse

SUMMARY = "say whether a guard lives"
DESCRIPTION = "Ask the admin interface whether the guard lives. It is silent if so, and ends with 69 if not."

__all__ = ["add_arguments"]


def execute(arguments: argparse.Namespace) -> int:
    """Ask once."""
    status, _ = Visitor(arguments.admin).get("/healthz")
    if status != 200:
        raise UnavailableError(f"{arguments.admin}: it answers with status {status}")
    return 0
