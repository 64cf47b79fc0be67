"""The limits: what holds where nothing is configured is what a configuration without a word about it says."""

from __future__ import annotations

from qmpguard.proxy.limits import GREETING_WAIT

from qmpguard.access import OPEN, Role
from qmpguard.address import UnixAddress
from qmpguard.config import MAX_UNREAD, Limits, VmConfig


def test_the_defaults_are_those_of_the_configuration() -> None:
    config = VmConfig("vm", UnixAddress("/q"), UnixAddress("/g"))
    shared = ("survey_timeout", "max_request", "max_clients", "watch", "access", "role")
    assert {name: getattr(Limits(), name) for name in shared} == {name: getattr(config, name) for name in shared}


def test_by_default_everybody_whom_the_sockets_mode_lets_in_may_do_everything() -> None:
    assert (Limits().access, Limits().role) == (OPEN, Role.OPERATOR)


def test_what_cannot_be_configured_has_its_default() -> None:
    assert (Limits().max_unread, Limits().greeting_wait) == (MAX_UNREAD, GREETING_WAIT)
