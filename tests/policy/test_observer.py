"""What an observer may ask, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from qmpguard.policy.observer import RULE, judge_observer

PASSES: list[tuple[str, dict[str, Any]]] = [
    ("query-status", {}),
    ("query-qmp-schema", {}),
    ("x-query-roms", {}),
    ("qom-list", {"path": "/"}),
    ("qom-get", {"path": "/machine", "property": "type"}),
    ("human-monitor-command", {"command-line": "info qtree"}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("stop", {}),
    ("quit", {}),
    ("migrate_cancel", {}),
    ("qmp_capabilities", {}),
    ("qom-set", {"path": "/machine", "property": "x", "value": 1}),
    ("qom-get", {"path": "/objects/secret0", "property": "data"}),
    ("qom-list-get", {"paths": ["/objects/secret0"]}),
    ("qom-list-types", {}),
    ("qom-list-properties", {"typename": "qxl-vga"}),  # it loads modules, and can end QEMU
    ("qom-get", {"path": "/machine", "property": []}),  # no value of a client's may raise
    ("qom-get", {"path": "/machine", "property": {"data": 1}}),
    ("human-monitor-command", {"command-line": ["info qtree"]}),
    ("device-list-properties", {"typename": "x"}),
    ("human-monitor-command", {"command-line": "info qdm"}),
    ("human-monitor-command", {"command-line": "stop"}),
    ("human-monitor-command", {"command-line": "information"}),
    ("human-monitor-command", {"command-line": 5}),
    ("human-monitor-command", {}),
    ("__com.redhat_query-x", {}),
    ("", {}),
]


@pytest.mark.parametrize(("command", "arguments"), PASSES)
def test_queries_pass(command: str, arguments: dict[str, Any]) -> None:
    assert judge_observer(command, arguments, None).refusal is None
    assert judge_observer(command, arguments, frozenset({command})).refusal is None


@pytest.mark.parametrize(("command", "arguments"), REFUSED)
def test_anything_else_is_refused(command: str, arguments: dict[str, Any]) -> None:
    refusal = judge_observer(command, arguments, None).refusal
    assert refusal is not None
    assert refusal.rule == RULE
    assert "this socket is for queries only" in refusal.text()


def test_what_the_schema_does_not_have_is_refused() -> None:
    assert judge_observer("query-status", {}, frozenset({"query-name"})).refusal is not None
