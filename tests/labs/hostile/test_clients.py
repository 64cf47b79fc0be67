"""Hostile clients for some seconds: the same ones in every run. `make hostile` goes on for minutes, with others."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import system_qemu
from qmpguard.policy.readers import READERS
from tests.labs.hostile.account import Account, Fault
from tests.labs.hostile.commands import IN_BAND, OUT_OF_BAND
from tests.labs.hostile.ids import SHAPES, any_id, echo_of, text
from tests.labs.hostile.world import attack, world

if TYPE_CHECKING:
    from pathlib import Path

#: clients of one world
CLIENTS = 25


@pytest.mark.qemu
@pytest.mark.parametrize(("policy", "real"), [("standard", False), ("observer", False), ("strict", True)], ids=str)
async def test_hostile_clients_harm_nobody_else(tmp_path: Path, policy: str, real: bool) -> None:
    async with world(tmp_path, policy, system_qemu() if real else None) as place:
        outcome = await attack(place, f"test-{policy}", lambda count: count >= CLIENTS, sweep=policy == "standard")
    assert outcome.faults == []
    assert outcome.replies > CLIENTS


def test_every_shape_is_known_by_its_own_echo_and_by_no_other() -> None:
    random = Random(1)
    for number, (name, shape) in enumerate(SHAPES.items()):
        identity = shape(random, number)
        echo = b"" if identity.raw is None else b', "id": ' + _as_qemu(identity.raw)
        assert identity.is_echo(echo_of(b'{"return": {}' + echo + b"}\r")), name
        assert not identity.is_echo(b'"another"'), name


def _as_qemu(raw: bytes) -> bytes:
    """Return an id as QEMU may write it."""
    return json.dumps(json.loads(raw)).encode() if raw[:1] == b'"' else raw.replace(b",", b", ")


def test_a_reply_out_of_place_is_a_fault() -> None:
    account = Account()
    for name in "ab":
        account.owe(name, text(name))
    account.owe("c", text("c"), oob=True)
    account.take(b'{"return": {}, "id": "c"}\r')
    account.take(b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}\r')
    with pytest.raises(Fault, match="where a"):
        account.take(b'{"return": {}, "id": "b"}\r')
    account.take(b'{"id": "a", "error": {"class": "GenericError", "desc": "x"}}\r')
    account.take(b'{"return": {}, "id": "b"}\r')
    with pytest.raises(Fault, match="nothing was to be"):
        account.take(b'{"error": {"class": "GenericError", "desc": "JSON parse error, x"}}\r')
    account.junk = 1
    account.take(b'{"error": {"class": "GenericError", "desc": "JSON parse error, x"}}\r')


def test_every_command_that_is_judged_is_sent_sooner_or_later() -> None:
    random = Random(2)
    tables = {**IN_BAND, **OUT_OF_BAND}
    sent = b"".join(make(random) for make in tables.values() for _ in range(400))
    assert not [command for command in READERS if b'"%b"' % command.encode() not in sent]
    assert {any_id(random, 1)[0] for _ in range(2000)} == set(SHAPES)
