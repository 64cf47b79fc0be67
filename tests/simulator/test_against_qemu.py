"""A simulated QEMU beside the real one: the same greeting, schema and errors, and events at the same places."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.address import UnixAddress
from qmpguard.demo.lab import vfio_qemu
from qmpguard.demo.qemu import Qemu
from qmpguard.simulator.description import Description
from qmpguard.simulator.server import simulating
from tests.support.guarding import connected

if TYPE_CHECKING:
    from pathlib import Path

#: what is sent, one after the other; of each reply all is compared
SENT = [
    b'{"execute": "query-status"}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": ["nonsense"]}}',
    b'{"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}, "id": 1}',
    b'{"execute": "qmp_capabilities", "id": "again"}',
    b'{"execute": "query-version"}',
    b'{"execute": "query-status", "id": {"a": [1, 2.50]}}',
    b'{"execute": "no-such-command", "id": 7}',
    b'{"execute": "query-status", "arguments": {"odd": 1}}',
    b'{"execute": "qom-list"}',
    b'{"execute": "qom-list", "arguments": {"path": 5}}',
    b'{"execute": "qom-list", "arguments": {"path": "/nothing"}}',
    b'{"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}}',
    b'{"execute": "qom-get", "arguments": {"path": "/machine/peripheral/none", "property": "type"}}',
    b'{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "x", "state": true}]}}',
    b'{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "events"}]}}',
    b'{"execute": "migrate-set-capabilities", "arguments": {"capabilities": 5}}',
    b'{"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": "xbzrle", "state": 1}]}}',
    b'{"execute": "query-migrate-capabilities"}',
    b'{"execute": "query-migrate-parameters"}',
    b'{"execute": "query-migrate"}',
    b'{"execute": "migrate"}',
    b'{"execute": "migrate-start-postcopy"}',
    b'{"execute": "device_del", "arguments": {"id": "none"}}',
    b'{"execute": "device_add", "arguments": {"driver": 5}}',
    b'{"exec-oob": "query-status", "id": 8}',
    b'{"execute": 5}',
    b'{"id": 9}',
    b"[]",
    b'{"execute": "query-qmp-schema"}',
    b'{"execute": "stop"}',
    b'{"execute": "query-status"}',
    b'{"execute": "cont"}',
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "info status"}}',
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "frobnicate"}}',
    b'{"execute": "human-monitor-command", "arguments": {"command-line": "migrate_set_capability xbzrle on"}}',
    b'{"execute": "quit"}',
]


async def heard(path: Path) -> list[Any]:
    """Every message for what is sent, with the events between them; times are left out."""
    found: list[Any] = []
    async with connected(path, negotiate=False) as client:
        found.append(await client.receive())
        for data in SENT:
            client.raw(data + b"\n")
            while True:
                message = await client.receive()
                if message is None:
                    return found
                message.pop("timestamp", None)
                found.append(message)
                if "event" not in message:
                    break
        while (message := await client.receive()) is not None:
            message.pop("timestamp", None)
            found.append(message)
    return found


@pytest.mark.qemu11
async def test_it_answers_as_qemu_does(tmp_path: Path) -> None:
    async with Qemu(vfio_qemu(), tmp_path, machine="pc") as qemu:
        real = await heard(qemu.monitors[0])
    async with simulating(Description("11.1"), UnixAddress(str(tmp_path / "s"))):
        simulated = await heard(tmp_path / "s")
    differing = [(a, b) for a, b in zip(real, simulated, strict=False) if sorted_(a) != sorted_(b)]
    assert not differing, "\n".join(f"{a}\n  {b}" for a, b in differing)
    assert len(real) == len(simulated)


def sorted_(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
