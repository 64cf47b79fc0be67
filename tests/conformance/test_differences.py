"""Listed differences that need more than one connection to be seen."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.clients.tool import Passing, Tool, crlf, talk
from tests.support.clients.tools import Hand
from tests.support.conformance.twins import NEGOTIATE
from tests.support.guarding import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.conformance.twins import Twins

pytestmark = pytest.mark.qemu


def test_descriptors_that_nothing_uses_outlive_a_connection_as_with_newer_qemus(twins: Twins) -> None:
    ask = Hand()
    adds = (ask("qmp_capabilities"), ask("add-fd", {"fdset-id": 9}, Passing.WITH))
    looks = (ask("qmp_capabilities"), ask("query-fdsets"), ask("remove-fd", {"fdset-id": 9}))
    tool = Tool("a tool", crlf, (adds, looks))
    remain = ['"fdset-id": 9' in talk(tool, path)[-2] for path in (twins.straight, twins.guarded)]
    assert remain == [twins.version >= (9, 1), True]


def test_a_reply_is_whole_for_a_client_that_has_sent_its_last_byte_and_reads_late(twins: Twins) -> None:
    straight, guarded = (_read_late(path) for path in (twins.straight, twins.guarded))
    assert guarded == [True, True]
    # before 10.0 the schema is no larger than what a socket holds; in 10.0 it may be
    cut = [twins.version >= (10, 0)] if not (10, 0) <= twins.version < (11, 1) else [True, False]
    assert straight in [[not each] * 2 for each in cut]


def _read_late(path: Path) -> list[bool]:
    """Whether the schema came whole, and whether the next client is greeted with a greeting."""
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as following:
        for each in (client, following):
            each.settimeout(TIMEOUT)
        client.connect(str(path))
        client.sendall(NEGOTIATE + b'{"execute": "query-qmp-schema"}')
        client.shutdown(socket.SHUT_WR)
        following.connect(str(path))
        greeting = following.recv(1 << 16)  # QEMU serves it when it has done with the other one
        received = b"".join(iter(lambda: client.recv(1 << 16), b""))
        return [received.endswith(b"}\r\n"), greeting.startswith(b'{"QMP"')]
