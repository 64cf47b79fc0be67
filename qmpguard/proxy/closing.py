"""Why the conversation with a client, or a connection, has ended."""

from __future__ import annotations

from enum import Enum


class CloseReason(Enum):
    """The value is the text of the log, where no error of the operating system says it better."""

    ENDED = "it ended the conversation"
    STOPPED = "the guard stops"
    QEMU_GONE = "QEMU is gone"
    QEMU_ABSENT = "QEMU did not appear"
    DOES_NOT_READ = "it does not read what it is sent"
    LOST_DESCRIPTORS = "it sent more descriptors than could be received"
    NO_DESCRIPTORS = "it sent a descriptor, and the process has almost none left (RLIMIT_NOFILE)"
    TOO_MUCH_HELD = "the clients hold too much together, and it the most"
    FAILED = "the guard failed, its log has the trace"
    BROKEN = "the connection broke"
