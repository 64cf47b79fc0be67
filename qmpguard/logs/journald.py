"""Decisions in systemd's journal, with searchable fields, by the native protocol of systemd-journald.

It is used where standard error is connected to the journal (JOURNAL_STREAM, systemd.exec(5)).
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

from qmpguard.logs.plain import MAX_LINE, cut, escaped
from qmpguard.record import Decision, Outcome, Override

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qmpguard.record import Entry, Peer

log = logging.getLogger(__name__)

#: where systemd-journald listens
SOCKET = "/run/systemd/journal/socket"
#: the MESSAGE_ID of each kind of message (systemd.journal-fields(7)); these never change
REFUSED, WARNED, ALLOWED, OVERRIDE = (
    "5cb1c4ba2ee84b3a9f5b2c4be1a3f0d1",
    "8e7a1d1b0f4e4a0c9d8b7a6f5e4d3c21",
    "3f9b6c1d7a2e4c58b0e1d2f3a4b5c6d7",
    "a6d2f8e1c3b54f7097e8d1c2b3a4f5e6",
)
_KINDS = {Outcome.REFUSED: (REFUSED, 4), Outcome.WARNED: (WARNED, 4), Outcome.ALLOWED: (ALLOWED, 6)}


def is_ours(environ: Mapping[str, str] = os.environ, file: int = 2) -> bool:
    """Say whether standard error is connected to the journal."""
    try:
        status = os.fstat(file)
    except OSError:  # it is closed
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class Journald:
    """Sends decisions and overrides to the journal. ``lost`` counts messages that could not be sent."""

    def __init__(self, path: str = SOCKET) -> None:
        self.lost = 0
        self._unreported = 0  # messages lost since the last that was sent
        self._path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)

    def has_last_entry(self) -> bool:
        """Say whether the last decision or override was sent."""
        return not self._unreported

    def on_entry(self, entry: Entry) -> None:
        """Called with each new entry; sends decisions and overrides. Never waits and never raises."""
        try:
            if (fields := _fields(entry)) is not None:
                self._sock.sendto(encode(fields), self._path)
                self._took()
        except OSError as error:  # systemd-journald does not run, or its queue is full
            self._lose(error.strerror or str(error))
        except Exception as error:  # the verdict must stand
            log.error("vm=%s a message for the journal cannot be built: %r", entry.vm, error, exc_info=error)
            self._lose("it cannot be built")

    def _took(self) -> None:
        if self._unreported:
            log.error("the journal takes messages again; messages lost: %d", self._unreported)
            self._unreported = 0

    def _lose(self, reason: str) -> None:
        self.lost += 1
        self._unreported += 1
        if self._unreported == 1:
            log.error("the journal does not take messages: %s", reason)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def encode(fields: Mapping[str, str]) -> bytes:
    """Return a message in the journal's native format; a value with a newline is sent with its length."""
    parts = []
    for name, text in fields.items():
        value = text.encode(errors="backslashreplace")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def _fields(entry: Entry) -> dict[str, str] | None:
    match entry.what:
        case Decision() as decision:
            identity, priority = _KINDS[decision.outcome]
            rules = ",".join(finding.rule for finding in decision.verdict.findings)
            about = {"VERDICT": decision.outcome.value, "RULE": rules, "REF": decision.ref, "COMMAND": decision.command}
            about |= {"HMP": decision.hmp} if decision.hmp else {}
            text = decision.text or f"{decision.outcome.value}: {decision.command!r}"
            return _message(entry.vm, text, identity, priority, {**about, **_client(decision.peer)})
        case Override() as override:
            about = {"RULE": override.rule or "all", "REASON": override.reason}
            return _message(entry.vm, str(override), OVERRIDE, 4, {**about, **_client(override.peer)})
        case _:
            return None


def _message(vm: str, text: str, identity: str, priority: int, about: Mapping[str, str]) -> dict[str, str]:
    head = {"MESSAGE": f"vm={vm} {text}", "MESSAGE_ID": identity, "PRIORITY": str(priority)}
    more = {"SYSLOG_IDENTIFIER": "qmpguard", "QMPGUARD_VM": vm} | {f"QMPGUARD_{k}": v for k, v in about.items()}
    return {name: cut(escaped(value), MAX_LINE) for name, value in (head | more).items()}


def _client(peer: Peer) -> dict[str, str]:
    known = {"CLIENT_PID": peer.pid, "CLIENT_UID": peer.uid, "CLIENT_GID": peer.gid}
    return {name: str(value) for name, value in known.items() if value is not None}
