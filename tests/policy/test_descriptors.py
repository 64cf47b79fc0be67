"""Descriptors by their numbers: every spelling that QEMU takes for a number, and the names that it does not."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.descriptors import is_descriptor, is_number, numbered
from qmpguard.wire.json import Number

#: what strtol and qemu_strtoi take for 4, and what they would refuse and still is no name
NUMBERS = ["4", "04", "+4", " 4", "\t\n\v\f\r4", " +04", "-1", "4 ", "99999999999999999999"]
#: a name may hold digits; a name that begins with one cannot be made by getfd, and names nothing
NAMES = ["net0", "fd4", "4a", "a 4", "", "+", "-", "0x4", "\u0664"]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
@pytest.mark.parametrize(
    ("place", "argument"),
    [
        (lambda n: {"type": "tap", "fd": n}, "fd"),
        (lambda n: {"type": "tap", "fds": f"a:{n}"}, "fds"),
        (lambda n: {"type": "tap", "vhostfd": n}, "vhostfd"),
        (lambda n: {"type": "tap", "fds": "a:b", "vhostfds": f"{n}:a"}, "vhostfds"),
        (lambda n: {"type": "af-xdp", "sock-fds": n}, "sock-fds"),
        (lambda n: {"driver": "virtio-net-pci", "ebpf-rss-fds": ["a", n]}, "ebpf-rss-fds"),
        (lambda n: {"driver": "virtio-net-pci", "ebpf-rss-fds.1": n}, "ebpf-rss-fds.1"),
        (lambda n: {"type": "stream", "addr": {"type": "fd", "str": n}}, "str"),
        (lambda n: {"addr": {"type": "fd", "data": {"str": n}}}, "str"),
        (lambda n: {"addr.type": "fd", "addr.str": n}, "addr.str"),
        (lambda n: {"filename": 'json:{"server.type": "fd", "server.str": "\\u0034"}'}, "server.str"),
        (lambda n: {"uri": f"fd:{n}"}, "uri"),
        (lambda n: {"channels": [{"addr": {"transport": "socket", "type": "fd", "str": n}}]}, "str"),
        (lambda n: {"guestfwd": [{"str": f"tcp:10.0.2.9:80-unix:fd={n},server=off"}]}, "str"),
    ],
    ids=["fd", "fds", "vhostfd", "vhostfds", "xdp", "list", "dots", "str", "old", "flat", "json", "uri", "chan", "fwd"],
)
def test_every_spelling_of_a_number_is_found(place: Any, argument: str, number: str) -> None:
    assert numbered(place(number)) == argument


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_is_no_number(name: str) -> None:
    request: dict[str, Any] = {
        "fd": name,
        "fds": f"{name}:b",
        "vhostfd": name,
        "sock-fds": [name],
        "addr": {"type": "fd", "str": name},
        "uri": f"fd:{name}",
    }
    assert numbered(request) is None


@pytest.mark.parametrize(
    "request_",
    [
        {"file": "/dev/fdset/4", "fdset-id": 4, "port": "4", "id": "4", "queues": 4},
        {"uri": "tcp:127.0.0.1:4", "filename": "/x,fd=4.img"},
        {"hostfwd": [{"str": "tcp::10022-:22"}], "dnssearch": [{"str": "4.example"}]},
        {"fd": True, "fds": None, "vhostfds": {"4": 4}, "": "4", "0": "4"},
    ],
    ids=str,
)
def test_other_numbers_are_none_of_descriptors(request_: Any) -> None:
    assert numbered(request_) is None


@pytest.mark.parametrize("value", [4, Number("4.0"), [4], ["a", "4"]], ids=str)
def test_numbers_of_json_are_numbers(value: Any) -> None:
    assert is_number(value)
    assert numbered({"fd": value})
    assert numbered({"addr": {"type": "fd", "str": 4}})


def test_properties_are_told_by_their_names() -> None:
    names = ("fd", "vhostfd", "x-fds", "fds.0", "fdname", "path", "0")
    assert [is_descriptor(name) for name in names] == [True, True, True, True, False, False, False]
