"""The commands of HMP as values: whoever matches them can match every one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, is_dataclass
from typing import get_args

import pytest

from qmpguard.policy.hmp import commands
from qmpguard.policy.hmp.commands import HmpCommand, Info, Migrate, Rejected


def test_every_command_of_the_module_is_one_that_may_be_returned() -> None:
    values = {value for value in vars(commands).values() if isinstance(value, type) and is_dataclass(value)}
    assert set(get_args(HmpCommand)) == values


def test_commands_are_values() -> None:
    assert Migrate("tcp:h:1", resume=False) == Migrate("tcp:h:1", resume=False)
    assert Info("migrate") != Info("status")
    with pytest.raises(FrozenInstanceError):
        Info("migrate").what = "status"  # type: ignore[misc]


def test_a_line_that_is_rejected_is_so_by_every_version_unless_it_says_otherwise() -> None:
    assert not Rejected("no command").newer
