"""A rule for qmpguard: no migration starts while a freeze file says so. The file's first line is the reason."""

from __future__ import annotations

from pathlib import Path

from qmpguard import Machine, Policy, Problem, Start

#: whoever may write here can stop migrations, and nothing else
FREEZE = Path("/etc/qmpguard/freeze")
#: bytes of the reason that are repeated to the client
MAX_REASON = 200


def change_freeze(machine: Machine, policy: Policy) -> Problem | None:
    """Refuse the start of a migration while `/etc/qmpguard/freeze` is there.

    The first line of the file is the reason that the client is told. A file that cannot be read is a freeze, too.
    """
    if machine.starting is not Start.OUTGOING or not FREEZE.exists():
        return None
    return Problem(f"Migrations are frozen: {reason()}", f"wait until {FREEZE} is gone")


def reason() -> str:
    """Return the first line of the file."""
    try:
        with FREEZE.open("rb") as file:
            return file.read(MAX_REASON).decode(errors="replace").partition("\n")[0] or "no reason given"
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
