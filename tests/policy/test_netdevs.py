"""The back end of a network device: what QEMU would run or open for it."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.netdevs import MAX_FORWARDS, netdev, opens_monitor, program_of, shared_memory_netdev, used_by

TO_TCP = "tcp:10.0.2.9:5-tcp:192.0.2.1:1"
TO_MONITOR = "tcp:10.0.2.9:5-mon:stdio"
TO_MUX = "tcp:10.0.2.9:5-chardev:c,mux=on"
TO_COMMAND = "tcp:10.0.2.9:5-cmd:sh"


@pytest.mark.parametrize(
    ("forwards", "opens"),
    [
        (None, False),
        (TO_TCP, False),
        (TO_COMMAND, False),
        (TO_MONITOR, True),
        (TO_MUX, True),
        ([{"str": TO_TCP}, {"str": TO_MONITOR}], True),
        ([TO_TCP, TO_MUX], True),  # as HMP gives them
        ([5, {}, {"str": 5}, None], False),
        ({"str": TO_MONITOR}, True),
        ([TO_TCP] * MAX_FORWARDS + [TO_MONITOR], False),  # the reader refuses as many
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_forward_to_a_shared_character_device_opens_a_monitor(forwards: Any, *, opens: bool) -> None:
    assert opens_monitor({"guestfwd": forwards}) is opens


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        ({"type": "user"}, None),
        ({"script": "/etc/ifup"}, "'script'"),
        ({"script": "no", "downscript": ""}, None),
        ({"downscript": "/x"}, "'downscript'"),
        ({"helper": "/x"}, "'helper'"),
        ({"smb": "/share"}, "'smb'"),
        ({"path": "/passt"}, "'path'"),
        ({"script": "/x", "helper": "/y"}, "'script'"),
        ({"guestfwd": [{"str": TO_COMMAND}]}, "'guestfwd' to a command"),
        ({"guestfwd": [{"str": TO_TCP}]}, None),
        ({"guestfwd": TO_COMMAND}, "'guestfwd' to a command"),
    ],
    ids=str,
)
def test_the_argument_that_names_a_program_is_named(arguments: dict[str, Any], program: str | None) -> None:
    assert program_of(arguments) == program


@pytest.mark.parametrize(
    ("arguments", "driver"),
    [
        ({"type": "vhost-vdpa", "id": "n", "vhostdev": "/dev/vhost-vdpa-0"}, "vhost-vdpa"),
        ({"type": "vhost-user", "id": "n", "chardev": "c"}, "vhost-user"),
        ({"type": "passt", "id": "n", "vhost-user": True}, "vhost-user"),
        ({"type": "passt", "id": "n", "vhost-user": "on"}, "vhost-user"),  # as HMP gives it
        ({"type": "passt", "id": "n", "vhost-user": False}, None),
        ({"type": "passt", "id": "n"}, None),
        ({"type": "tap", "id": "n", "vhost": True}, None),  # the kernel's vhost: userfaultfd sees its writes
        ({"type": "user", "id": "n"}, None),
        ({"type": ["vhost-vdpa"], "id": "n"}, None),  # QEMU refuses it
        ({"id": "n"}, None),
    ],
    ids=str,
)
def test_a_back_end_that_accesses_guest_ram_is_known_by_its_type(arguments: dict[str, Any], driver: str | None) -> None:
    found = shared_memory_netdev(arguments)
    assert (found and (found.driver, found.id, found.label)) == (driver and (driver, "n", "n"))


def test_a_back_end_whose_id_qemu_will_refuse_has_none() -> None:
    assert shared_memory_netdev({"type": "vhost-vdpa", "id": 5}) == netdev("vhost-vdpa", "")


@pytest.mark.parametrize(
    ("users", "label"),
    [
        ([], "netdev n"),
        ([("m", "net1")], "netdev n"),
        ([("m", "net1"), ("n", "net0")], "netdev n of net0"),
        ([("n", "net0"), ("n", "/machine/x")], "netdev n of net0 and /machine/x"),
    ],
)
def test_a_back_end_is_named_with_its_devices(users: list[tuple[str, str]], label: str) -> None:
    named = used_by(netdev("vhost-vdpa", "n"), users)
    assert (named.name, named.label, named.driver) == (label, label, "vhost-vdpa")
