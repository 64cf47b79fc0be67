"""The limits of one VM's clients, and who they may be."""

from __future__ import annotations

from dataclasses import dataclass

from qmpguard.access import OPEN, Access, Role
from qmpguard.wire.framing import MAX_REQUEST

#: seconds that an operation waits for its turn and for QEMU's answers before it is refused as unverified
SURVEY_TIMEOUT = 60.0
#: seconds between two looks for drift, while nothing happens
DRIFT_INTERVAL = 30.0
#: bytes that a client may leave unread before it is disconnected; QEMU's largest reply is a sixtieth of it
MAX_UNREAD = 16 << 20
#: clients of one VM at once
MAX_CLIENTS = 1024
#: seconds that a client waits for QEMU to appear before it is sent away
GREETING_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one VM's clients may use, and who they may be. Times are in seconds, sizes in bytes.

    ``watch`` 0: no look between surveys.
    """

    survey_timeout: float = SURVEY_TIMEOUT
    max_request: int = MAX_REQUEST
    max_unread: int = MAX_UNREAD
    max_clients: int = MAX_CLIENTS
    greeting_wait: float = GREETING_WAIT
    watch: float = DRIFT_INTERVAL
    access: Access = OPEN
    role: Role = Role.OPERATOR
