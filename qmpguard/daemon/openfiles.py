"""The limit on open files of the process: raised for the guard, and as it was for the QEMU that it starts."""

from __future__ import annotations

import logging
import resource
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

#: Open files that are asked for, where the hard limit allows it: a VM needs five and a client one or two, so a thousand
#: VMs with ten clients each. A higher limit makes nothing better and lets one fault take more of the kernel's memory.
WANTED = 65536


def raise_limit() -> int:
    """Raise the soft limit to the hard one, but not above `WANTED`, and return what it was. Never raises an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:  # a unit's SystemCallFilter= may forbid it
        log.debug("the limit on open files stays at %d: %s", soft, error)
    return soft


@contextmanager
def limit_of(files: int) -> Iterator[None]:
    """Have another soft limit for a moment: a program that is started in it inherits it. Never raises an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
