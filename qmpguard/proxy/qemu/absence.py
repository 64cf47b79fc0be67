"""Why there is no link to QEMU: a cause of few, words that help, and how soon the next attempt may come.

Whatever QEMU, or what is in its place, does: it is told here as an `Absence` of that VM, and concerns no other.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from qmpguard.errors import UnavailableError
from qmpguard.rate import LogRate

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds between attempts: the first, and the longest where nothing is there. Clients are refused until a QEMU that
#: has come is noticed.
FIRST_DELAY, LONGEST_DELAY = 0.05, 0.5
#: the longest where something answers but gives no link: each attempt costs it a connection
LONGEST_UNFIT = 5.0
#: seconds that a link must have lasted so that the next loss is a first one
STEADY = 1.0
#: lines of log about one cause in an interval, in seconds
LINES, INTERVAL = 1, 3600.0
#: characters of what something foreign has sent, in a reason
SHOWN = 60


class Cause(Enum):
    """Why there is no link, in one word."""

    MISSING = "missing"  # no socket at the path
    NOBODY = "nobody_listens"
    DENIED = "permission_denied"
    OCCUPIED = "occupied"  # it takes connections, but does not greet
    CLOSED = "closes"  # it takes connections, and closes them
    FOREIGN = "not_qmp"
    HUNG = "hangs"  # it has greeted, and does not answer
    REFUSED = "refused"  # the negotiation
    SHORTAGE = "no_descriptors"
    UNREACHABLE = "unreachable"
    DIALS = "dials_in"  # it is QEMU that connects, and it has not
    ENDED = "ended"  # a passed connection, which nobody can make anew
    FAULT = "failed"  # of the guard itself


#: where it is sure that no QEMU is there
GONE = frozenset({Cause.MISSING, Cause.NOBODY, Cause.ENDED})
_UNFIT = frozenset({Cause.OCCUPIED, Cause.CLOSED, Cause.FOREIGN, Cause.HUNG, Cause.REFUSED, Cause.FAULT})

_ERRORS: Mapping[int, tuple[Cause, str]] = {
    errno.ENOENT: (Cause.MISSING, "no such socket: QEMU is not running, or the path is wrong"),
    errno.ECONNREFUSED: (Cause.NOBODY, "nobody listens there: QEMU has ended, or has not started"),
    errno.EACCES: (Cause.DENIED, "permission denied: the guard's user may not connect there"),
    errno.EPERM: (Cause.DENIED, "permission denied: the guard's user may not connect there"),
    errno.EAGAIN: (Cause.OCCUPIED, "another client waits there already: QEMU's monitor is occupied"),
    errno.EMFILE: (Cause.SHORTAGE, "the guard has no descriptor left: raise its limit (LimitNOFILE=, ulimit -n)"),
    errno.ENFILE: (Cause.SHORTAGE, "this machine has no descriptor left (fs.file-max)"),
}


@dataclass(frozen=True, slots=True)
class Absence:
    """Why there is no link, in one word and in words for people."""

    cause: Cause
    reason: str


class AbsentError(UnavailableError):
    """There is no link to QEMU; ``absence`` says why."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.absence = Absence(cause, reason)


def absence(error: Exception) -> Absence:
    """Return what an error on the way to QEMU means. What nobody expects is a fault of the guard itself."""
    match error:
        case AbsentError():
            return error.absence
        case TimeoutError():
            return Absence(Cause.UNREACHABLE, "no answer")
        case OSError():
            text = error.strerror or str(error)
            cause, reason = _ERRORS.get(error.errno or 0, (Cause.UNREACHABLE, text))
            return Absence(cause, reason)
        case UnavailableError():
            return Absence(Cause.UNREACHABLE, str(error))
        case _:
            return Absence(Cause.FAULT, f"failed: {error!r}"[: 4 * SHOWN])


def foreign(data: bytes) -> AbsentError:
    """Return the error for what has sent no greeting of QEMU, with the mistake that it most likely is."""
    if b"monitor - type 'help'" in data or b"(qemu)" in data:
        return AbsentError(Cause.FOREIGN, "an HMP monitor is there, no QMP: use -qmp, not -monitor, or mode=control")
    for mark, name in _OTHERS.items():
        if data.startswith(mark):
            return AbsentError(Cause.FOREIGN, f"{name} is there, no QMP socket of QEMU")
    return AbsentError(Cause.FOREIGN, f"what is there sends no greeting of QEMU, but {data[:SHOWN]!r}")


_OTHERS = {b"RFB ": "a VNC server", b"HTTP/": "an HTTP server", b"SSH-": "an SSH server"}


class BackOff:
    """How long to wait before the next attempt: longer each time, until a link has lasted. A mere connect is none."""

    def __init__(self) -> None:
        self._delay = FIRST_DELAY

    def next(self, cause: Cause | None) -> float:
        """Return the seconds until the next attempt; None: there was a link, and it has ended."""
        longest = LONGEST_UNFIT if cause is None or cause in _UNFIT else LONGEST_DELAY
        delay, self._delay = min(self._delay, longest), min(self._delay * 2, LONGEST_UNFIT)
        return delay

    def lasted(self, seconds: float) -> bool:
        """Begin anew after a link that has lasted so long, if that is long enough, and return whether it is."""
        if seconds >= STEADY:
            self._delay = FIRST_DELAY
        return seconds >= STEADY


class Notices:
    """Which absences are to be logged: each cause once, and once an hour while it goes on."""

    def __init__(self) -> None:
        self._rate = LogRate(LINES, INTERVAL)

    def admit(self, absence: Absence, now: float) -> str | None:
        """Return what to write behind the line; None where nothing is to be written. ``now`` is in seconds."""
        return self._rate.admit(absence.cause, now)
