"""A pending request: what came of it is told once, and its descriptor is closed once."""

from __future__ import annotations

import os
from typing import Any

from qmpguard.proxy.clients.pending import Outcome, PendingRequest, Unanswered
from qmpguard.proxy.sockets.descriptors import Descriptor
from qmpguard.wire.client_messages import Request

SESSION: Any = None


def test_the_outcome_is_told_once() -> None:
    outcomes: list[Outcome] = []
    pending = PendingRequest(SESSION, Request("migrate", None, None, oob=False))
    pending.conclude(b"to no one")
    pending.on_outcome = outcomes.append
    pending.conclude(b"{}")
    pending.conclude(Unanswered.LOST)
    assert outcomes == [b"{}"]


def test_a_request_that_is_discarded_closes_its_descriptor_and_says_so() -> None:
    outcomes: list[Outcome] = []
    descriptor = Descriptor(os.open(os.devnull, os.O_RDONLY))
    pending = PendingRequest(SESSION, Request("getfd", None, b"12", oob=False), 100, descriptor)
    pending.on_outcome = outcomes.append
    pending.discard()
    pending.discard()
    assert outcomes == [Unanswered.NOT_SENT]
    assert (descriptor.fileno(), pending.descriptor) == (-1, None)


def test_the_size_has_the_ids_as_well() -> None:
    assert PendingRequest(SESSION, Request("x", None, b"12345", oob=False), 100).size == 105
    assert PendingRequest(SESSION, Request("x", None, None, oob=True), 100).size == 100
