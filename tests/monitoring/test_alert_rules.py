"""containers/: alert rules and a dashboard on metrics that exist, tested by Prometheus's own tool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml
from factories import ROOT
from monitoring.conftest import Traffic, lines_of

from arxiv_cls.monitoring.metrics import of_feedback
from arxiv_cls.monitoring.service import MonitorService
from arxiv_cls.monitoring.settings import MonitorSettings
from arxiv_cls.serving.app import create_app
from arxiv_cls.serving.settings import ServingSettings

CONTAINERS = ROOT / "containers"
DASHBOARD = json.loads((CONTAINERS / "grafana/dashboards/arxiv_cls.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((CONTAINERS / "alerts.yaml").read_text(encoding="utf-8"))
EXPRESSIONS = [
    *(rule["expr"] for group in RULES["groups"] for rule in group["rules"]),
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
]
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
# What Prometheus has itself.
OWN = {"up", "ALERTS"}


def promtool(*words: object) -> None:
    """Runs the tool, which says what is wrong."""
    if not (tool := shutil.which("promtool")):
        pytest.skip("no promtool (Debian: apt-get install prometheus)")
    done = subprocess.run([tool, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", [("check", "config", "prometheus.yaml"), ("test", "rules", "alerts_test.yaml")]
)
def test_rules(words):
    """The rules are valid where prometheus.yaml names them, and fire on the numbers that they should."""
    promtool(*words[:2], CONTAINERS / words[2])


def test_every_expression_parses(tmp_path):
    """Those of the dashboard, as rules that record what they find."""
    rules = [{"record": "x", "expr": expression} for expression in EXPRESSIONS]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    # Recorded under one name they would be called duplicates.
    promtool("check", "rules", "--lint=none", tmp_path / "rules.yaml")


def test_every_metric_exists(released, write_log, tmp_path):
    """Rules and dashboard name what endpoint and monitoring service count, after a run."""
    log = write_log(lines_of(Traffic(300, 22)))
    service = MonitorService(MonitorSettings(model=str(released), log=str(log), out=str(tmp_path / "out")))
    service._check()
    endpoint = create_app(ServingSettings(model=str(released))).state.endpoint
    measured = of_feedback({"version": "v", "accuracy": 0.8, "accuracy_interval": (0.7, 0.9), "n": 50})
    families = [*service.metrics.registry.collect(), *endpoint.metrics.registry.collect(), *measured]
    known = {family.name + end for family in families for end in SUFFIXES.get(family.type, [])}
    text = re.sub(r'"[^"]*"|\b(by|on|group_left) *\([^)]*\)', "", "\n".join(EXPRESSIONS))
    named = set(re.findall(r"\b(?:arxiv_cls|http|process)_\w+|\bup\b|\bALERTS\b", text))
    assert named <= known | OWN
    assert {"arxiv_cls_monitor_alert", "arxiv_cls_monitor_p", "http_requests_total"} <= named


def test_the_dashboard_reads_prometheus():
    """By the name that the data source is provisioned under."""
    source = yaml.safe_load((CONTAINERS / "grafana/datasources/prometheus.yaml").read_text(encoding="utf-8"))
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["datasources"][0]["uid"]}
