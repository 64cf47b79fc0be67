"""The examples for Prometheus, Grafana and Kubernetes name metrics, labels and values that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qmpguard.admin.metrics import HISTOGRAMS, STATUSES, VM_METRICS
from qmpguard.policy.rules import table
from qmpguard.proxy.state.counters import DROP_REASONS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BOARD: dict[str, Any] = json.loads((EXAMPLES / "grafana.json").read_text())

#: every series that /metrics can have, with its labels
SERIES = {"qmpguard_build_info": {"version"}}
SERIES |= {
    f"qmpguard_{n.name}{'_total' if n.kind.__name__.startswith('Counter') else ''}": {"vm", *n.labels}
    for n in VM_METRICS
}
SERIES |= {f"qmpguard_{t.name}_{part}": {"vm", "le"} for t in HISTOGRAMS for part in ("bucket", "sum", "count")}

#: the values that a label can have
VALUES = {
    "status": set(STATUSES),
    "reason": set(DROP_REASONS),
    "verdict": {"refused", "warned", "allowed"},
    "rule": {row[0] for row in table()} | {"none"},
    "outcome": {"passed", "allowed", "warned", "refused"},
}


def expressions() -> list[tuple[str, str]]:
    """Every expression with what it belongs to; each alert's own templates too."""
    alerts = (EXAMPLES / "prometheus-alerts.yml").read_text()
    found = [("alerts", line.strip().removeprefix("expr: ")) for line in alerts.splitlines() if "expr: " in line]
    found += [(panel["title"], t["expr"]) for panel in BOARD["panels"] for t in panel["targets"]]
    return [*found, ("the board's variable", BOARD["templating"]["list"][1]["query"]["query"])]


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_metric_that_is_named_exists_with_these_labels(where: str, expression: str) -> None:
    names = re.findall(r"qmpguard_\w+", expression)
    assert names, where
    for name in names:
        assert name in SERIES, f"{where}: {name}"
    labels = {label for name in names for label in SERIES[name]} | {"instance", "job"}
    for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= labels, where
    for label, value in re.findall(r'(\w+)!?=~?"([^"$]+)"', expression):
        assert label in labels, f"{where}: {label}"
        assert value in VALUES[label], f"{where}: {label}={value}"


def test_what_the_pod_monitor_scrapes_is_there() -> None:
    text = (EXAMPLES / "kubernetes" / "podmonitor.yaml").read_text()
    assert "path: /metrics" in text
    assert "type: Bearer" in text


def test_prometheus_own_tool_finds_the_alerts_in_order() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: apt-get install prometheus (make examples-test does it)")
    command = [promtool, "check", "rules", str(EXAMPLES / "prometheus-alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 rules found" in done.stdout
