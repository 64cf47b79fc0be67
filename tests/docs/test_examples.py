"""The examples for Prometheus, Grafana and Kubernetes name metrics, labels and values that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from qmpguard.admin.metrics import ADMIN_DROPS, HISTOGRAMS, PROCESS_COUNTERS, STATUSES, VM_METRICS
from qmpguard.policy.rules import table
from qmpguard.proxy.state.counters import DROP_REASONS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BOARD: dict[str, Any] = json.loads((EXAMPLES / "grafana.json").read_text())

#: every series that /metrics can have, with its labels
SERIES = {"qmpguard_build_info": {"version"}, "up": {"instance", "job"}}
SERIES |= {f"qmpguard_{total.name}_total": {total.label} for total in (*PROCESS_COUNTERS, ADMIN_DROPS)}
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
    "result": {"done", "failed"},
    "where": {"log", "audit", "traffic", "journal"},
    "outcome": {"passed", "allowed", "warned", "refused"},
}


def alerts() -> list[dict[str, Any]]:
    """The alerts."""
    read: dict[str, Any] = yaml.safe_load((EXAMPLES / "prometheus-alerts.yml").read_text())
    return [alert for group in read["groups"] for alert in group["rules"]]


def expressions() -> list[tuple[str, str]]:
    """Every expression with what it belongs to; each alert's own templates too."""
    found = [(alert["alert"], alert["expr"]) for alert in alerts()]
    found += [(panel["title"], t["expr"]) for panel in BOARD["panels"] for t in panel["targets"]]
    return [*found, ("the board's variable", BOARD["templating"]["list"][1]["query"]["query"])]


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_metric_that_is_named_exists_with_these_labels(where: str, expression: str) -> None:
    names = re.findall(r"qmpguard_\w+|^up\b", expression)
    assert names, where
    for name in names:
        assert name in SERIES, f"{where}: {name}"
    labels = {label for name in names for label in SERIES[name]} | {"instance", "job"}
    for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression):
        assert {label.strip() for label in group.split(",")} <= labels, where
    for label, value in re.findall(r'(\w+)!?=~?"([^"$]+)"', expression):
        assert label in labels, f"{where}: {label}"
        assert label == "job" or value in VALUES[label], f"{where}: {label}={value}"


def test_what_is_in_the_templates_of_an_alert_are_labels_of_its_metric() -> None:
    """A sum keeps only the labels that it names."""
    for alert in alerts():
        grouped = re.findall(r"by \(([^)]*)\)", alert["expr"])
        names = re.findall(r"qmpguard_\w+|^up\b", alert["expr"])
        has = {label.strip() for group in grouped for label in group.split(",")} or {"instance", *SERIES[names[0]]}
        assert set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"]))) <= has, alert["alert"]


def test_an_alert_tells_of_what_an_operator_must_know() -> None:
    needed = {"QmpguardDown", "QmpguardReloadFailed", "QmpguardLinesLost", "QmpguardOverride", "QmpguardNoQemu"}
    assert needed <= {alert["alert"] for alert in alerts()}


def test_the_alert_of_a_guard_that_is_down_knows_the_jobs_that_the_examples_make() -> None:
    """The Prometheus Operator calls a job by namespace and name of its monitor."""
    (down,) = (alert["expr"] for alert in alerts() if alert["alert"] == "QmpguardDown")
    jobs = re.fullmatch(r'up\{job=~"(.*)"\} == 0', down)
    assert jobs
    (scraped,) = yaml.safe_load((EXAMPLES / "prometheus.yml").read_text())["scrape_configs"]
    monitor = yaml.safe_load((EXAMPLES / "kubernetes/podmonitor.yaml").read_text())["metadata"]["name"]
    for job in (scraped["job_name"], f"some-namespace/{monitor}"):
        assert re.fullmatch(jobs[1], job)
    assert not re.fullmatch(jobs[1], "other-qmpguard")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("rules", "prometheus-alerts.yml"), f"{len(alerts())} rules found"),
        (("config", "--syntax-only", "prometheus.yml"), "SUCCESS"),
    ],
    ids=["alerts", "scraping"],
)
def test_prometheus_own_tool_finds_them_in_order(words: tuple[str, ...], says: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here: apt-get install prometheus (make examples-test does it)")
    command = [promtool, "check", *words]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout
