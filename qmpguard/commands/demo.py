"""``qmpguard demo``: see it work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

SUMMARY = "see it work"
DESCRIPTION = "Show what a real QEMU answers with and without the guard."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no options."""


def execute(arguments: argparse.Namespace) -> int:
    """Tell the story."""
    from qmpguard.demo.story import tell

    return asyncio.run(tell())
