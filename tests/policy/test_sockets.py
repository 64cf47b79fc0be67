"""The sockets at which QEMU and the guard listen, and how a request names one."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.sockets import addresses, listening_sockets, named_socket, socket_name

DEVICES: list[Any] = [  # as QEMU 7.2 and 11.1 tell them
    {"label": "ready", "filename": "disconnected:fd:7"},
    {"label": "compat_monitor1", "filename": "disconnected:unix:rel.sock,server=on"},
    {"label": "abs", "filename": "disconnected:unix:foo,abstract=on,tight=on,server=on"},
    {"label": "compat_monitor0", "filename": "unix:/tmp/x/qmp0.sock,server=on"},
    {"label": "tcp0", "filename": "disconnected:tcp:127.0.0.1:36435,server=on"},
    {"label": "tcp1", "filename": "tcp:[::1]:4444,server=on <-> [::1]:5555"},
    {"label": "client", "filename": "unix:/run/vhost.sock"},
    {"label": "pty", "filename": "pty:/dev/pts/3"},
]
SOCKETS = frozenset({"rel.sock", "foo", "qmp0.sock", ":36435", ":4444"})
ALL = SOCKETS | {"100%.sock", "a%62.sock"}


def test_every_socket_at_which_qemu_listens_is_found() -> None:
    assert listening_sockets(DEVICES) == SOCKETS
    odds: list[Any] = [{}, [5], [{"label": "x"}]]
    for odd in odds:
        with pytest.raises(ValueError, match="character device"):
            listening_sockets(odd)


@pytest.mark.parametrize(
    ("arguments", "socket"),
    [
        ({"type": "stream", "addr": {"type": "unix", "path": "/tmp/x/qmp0.sock"}}, "qmp0.sock"),
        ({"addr": {"path": "/proc/self/root/tmp/../tmp/x//qmp0.sock"}}, "qmp0.sock"),
        ({"addr": {"path": "qmp0.sock"}}, "qmp0.sock"),
        ({"uri": "unix:/elsewhere/qmp0.sock"}, "qmp0.sock"),
        ({"channels": [{"addr": {"transport": "socket", "type": "unix", "path": "rel.sock"}}]}, "rel.sock"),
        ({"uri": "tcp:localhost:4444"}, ":4444"),
        ({"addr": {"type": "inet", "host": "h", "port": "4444"}}, ":4444"),
        ({"addr": {"type": "inet", "host": "h", "port": 4444}}, ":4444"),
        ({"filename": "nbd+unix:///x?socket=/a/%71mp0.sock"}, "qmp0.sock"),
        ({"filename": 'json:{"driver":"nbd","server":{"path":"/a/qmp\\u0030.sock"}}'}, "qmp0.sock"),
        ({"guestfwd": [{"str": "tcp:10.0.2.9:1-unix:/a/qmp0.sock"}]}, "qmp0.sock"),
        ({"list": ["tcp:10.0.2.9:1-unix:/a/qmp0.sock"]}, "qmp0.sock"),
        ({"addr": {"type": "unix", "abstract": True, "path": "foo"}}, "foo"),
        ({"addr": {"path": "/tmp/x/qmp.sock", "port": None}}, None),
        ({"addr": {"path": "/tmp/100%.sock"}}, "100%.sock"),
        ({"addr": {"path": "/tmp/100%25.sock"}}, "100%.sock"),
        ({"addr": {"path": "/tmp/a%62.sock"}}, "a%62.sock"),
        ({"addr": {"path": "foo\0bar"}}, "foo"),
        ({"addr": {"path": "foo,server=on"}}, "foo"),
        ({"addr": {"path": "/tmp/web-qmp0.sock"}}, None),
        ({"addr": {"path": "/tmp/qmp0.sock.old"}}, None),
        ({"addr": {"path": "/tmp/foot/x"}}, None),
        ({"uri": "tcp:localhost:44445"}, None),
        ({"port": "444"}, None),
        ({"server": True, "wait": 5}, None),
    ],
    ids=str,
)
def test_a_request_that_names_one_is_found(arguments: Any, socket: str | None) -> None:
    assert named_socket(addresses(arguments), ALL) == socket


def test_a_socket_goes_by_the_last_part_of_its_path() -> None:
    assert [socket_name(path) for path in ("/a/b.sock", "b.sock", "/a/b.sock/", "/")] == ["b.sock"] * 3 + [""]
