"""RLIMIT_NOFILE: raised for the guard, and the original value for the QEMU that it starts."""

from __future__ import annotations

import logging
import resource
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

#: The soft limit that the guard sets, where the hard limit allows it. A VM needs five files and a client one or two, so
#: this is a thousand VMs with ten clients each. A higher limit would only let a fault take more kernel memory.
MAX_OPEN_FILES = 65536


def raise_limit() -> int:
    """Raise the soft limit to the hard one, at most `MAX_OPEN_FILES`. Return the old soft limit. Never raises."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # a unit's SystemCallFilter= may forbid it
        log.debug("the limit on open files stays at %d: %s", soft, error)
    return soft


@contextmanager
def soft_limit(files: int) -> Iterator[None]:
    """Set another soft limit in the block: a program that is started there inherits it. Never raises."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
