"""Where a migration goes: surely to another host, or perhaps not."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.target import MAX_CHANNELS, leaves_the_host

HERE = {"addr": {"transport": "socket", "type": "inet", "host": "127.0.0.1", "port": "1"}}
THERE = {"addr": {"transport": "socket", "type": "inet", "host": "10.0.0.9", "port": "1"}}


@pytest.mark.parametrize(
    ("uri", "leaves"),
    [
        ("tcp:10.0.0.9:4444", True),
        ("tcp:other:4444", True),
        ("rdma:other:4444", True),
        ("tcp:[2001:db8::1]:4444", True),
        ("tcp:localhost:4444", False),
        ("tcp:localhost.example:4444", True),
        ("tcp:127.0.0.1:4444", False),
        ("tcp:127.9:4444", False),
        ("tcp:[::1]:4444", False),
        ("tcp:[::]:4444", False),
        ("tcp:0.0.0.0:4444", False),
        ("tcp::4444", False),
        ("unix:/tcp:other:1", False),
        ("exec:nc other 1", False),  # who knows where it goes
        ("fd:tcp", False),
        ("", False),
        (5, False),
        (None, False),
    ],
)
def test_a_uri_leaves_the_host_where_it_names_another(uri: object, *, leaves: bool) -> None:
    arguments: dict[str, Any] = {"uri": uri}
    assert leaves_the_host(arguments) is leaves


@pytest.mark.parametrize(
    ("channels", "leaves"),
    [
        ([THERE], True),
        ([HERE], False),
        ([HERE, THERE], True),
        ([{"addr": {"transport": "rdma", "host": "other", "port": "1"}}], True),
        ([{"addr": {"transport": "exec", "args": ["nc", "other"]}}], False),
        ([{"addr": {"transport": "socket", "type": "unix", "path": "/other"}}], False),
        ([5, {}, {"addr": 5}], False),
        ([HERE] * MAX_CHANNELS + [THERE], False),  # QEMU takes two at most, and refuses these
        ({"0": THERE}, False),
        ("other", False),
        (None, False),
    ],
    ids=str,
)
def test_channels_leave_the_host_where_one_does(channels: object, *, leaves: bool) -> None:
    arguments: dict[str, Any] = {"channels": channels}
    assert leaves_the_host(arguments) is leaves
