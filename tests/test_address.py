"""Addresses: what they name, and what is said of a wrong one."""

from __future__ import annotations

import pytest

from qmpguard.address import FdAddress, NamedAddress, TcpAddress, UnixAddress, parse_address, parse_listen_address
from qmpguard.errors import UsageError

NAMED = [
    ("unix:/run/q", UnixAddress("/run/q")),
    ("/run/q", UnixAddress("/run/q")),
    ("tcp:127.0.0.1:4444", TcpAddress("127.0.0.1", 4444)),
    ("tcp:[::1]:4444", TcpAddress("::1", 4444)),
    ("fd:3", FdAddress(3)),
]


@pytest.mark.parametrize(("text", "address"), NAMED)
def test_an_address_is_what_it_names(text: str, address: object) -> None:
    assert parse_address(text) == parse_listen_address(text) == address


def test_a_socket_of_the_service_manager_is_for_listening_only() -> None:
    assert parse_listen_address("fd:qmp") == NamedAddress("qmp")
    assert str(NamedAddress("qmp")) == "fd:qmp"
    with pytest.raises(UsageError, match="fd:N"):
        parse_address("fd:qmp")


@pytest.mark.parametrize("text", ["", "unix:", "tcp:4444", "tcp:host:http", "tcp:h:65536", "x" * 108, "a\0b"])
def test_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_listen_address(text)


@pytest.mark.parametrize("text", ["fd:", "fd:a:b", "fd:\n", "fd:\u00e9"])
def test_a_name_that_systemd_would_not_take_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="fd:NAME"):
        parse_listen_address(text)
