"""How far a session reads: the states of a conversation, the limits, and where its input stands."""

from __future__ import annotations

from enum import Enum

#: Requests of one client without a reply before its input waits: with out-of-band one that QEMU executes and eight
#: that wait (monitor/qmp.c: QMP_REQ_QUEUE_LEN_MAX, handle_qmp_command).
OUTSTANDING = 9
#: how the names of commands begin that change nothing
QUERY = "query-"
#: Messages of one client in one wake-up of the loop, before other clients have their turn. No more wait for QEMU; it
#: bounds what the guard answers by itself, some 10 us for junk and 100 us for a refusal.
TURN = OUTSTANDING


class State(Enum):
    """How far a conversation has come."""

    WAITING = "waiting for QEMU"
    NEGOTIATING = "negotiating"
    COMMANDS = "commands"
    ENDING = "ending"
    CLOSED = "closed"


class Reading:
    """Whether a session looks at messages, and how many it has looked at in this wake-up of the event loop."""

    __slots__ = ("count", "now", "paused", "scheduled", "stalled", "wakeup")

    def __init__(self) -> None:
        self.now = False
        self.paused = False  # the bytes stay in the kernel
        self.stalled = False  # until one of the requests without a reply is answered
        self.scheduled = False  # it is read on after the others' turn
        self.wakeup = -1
        self.count = 0
