"""``qmpguard demo``: a real QEMU without and with the guard."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

SUMMARY = "show a real QEMU with and without the guard"
DESCRIPTION = "Show what a real QEMU answers with and without the guard."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there are no options."""


def execute(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    from qmpguard.demo.story import tell

    return asyncio.run(tell())
