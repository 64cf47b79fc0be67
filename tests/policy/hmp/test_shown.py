"""What records show of a line of HMP: never what may be a secret."""

from __future__ import annotations

import pytest

from qmpguard.policy.hmp.shown import shown
from qmpguard.wire.json import Value


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("migrate_set_capability postcopy-ram on", "migrate_set_capability postcopy-ram on"),
        ("  migrate_set_capability   x-colo   off ", "migrate_set_capability x-colo off"),
        ("migrate_set_capability s3cret on", "migrate_set_capability [hidden]"),
        ("migrate_set_capability postcopy-ram maybe", "migrate_set_capability [hidden]"),
        ("migrate -d exec:curl?token=s3cret", "migrate [hidden]"),
        ("set_password vnc s3cret", "set_password [hidden]"),
        ("system_reset", "system_reset"),
        ("", ""),
        ("x" * 100_000, "x" * 64),
        (None, ""),
        (5, ""),
    ],
)
def test_a_line_is_shown_by_its_name_and_harmless_words(line: Value, says: str) -> None:
    assert shown("human-monitor-command", {"command-line": line}) == says
    assert shown("query-status", {"command-line": line}) == ""


def test_a_request_without_arguments_has_no_line() -> None:
    assert shown("human-monitor-command", None) == ""
