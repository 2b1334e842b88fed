"""The alert rules, by promtool: sound, and firing when they should and only then."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from services.coordinator import metrics as of_the_coordinator
from services.reward import metrics as of_rewards
from tests.kubernetes.chart import DEFAULT, find, render
from tests.kubernetes.tools import CACHE, require

CASES = Path(__file__).parent / "alerts" / "cases.yaml"


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rules as Prometheus reads them: what is inside of the chart's PrometheusRule."""
    scraped = {"metricsFrom": [{"namespaceSelector": {}}]}
    manifests = render(DEFAULT, values={"monitoring": {"alerts": {"enabled": True}}, "networkPolicy": scraped})
    file = tmp_path_factory.mktemp("alerts") / "rules.yaml"
    file.write_text(yaml.safe_dump(find(manifests, "PrometheusRule", "rl-syncline")["spec"]))
    return file


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([require(CACHE / "promtool"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_to_complain_about(rules: Path) -> None:
    promtool("check", "rules", rules)


def test_alerts_fire_when_they_should(rules: Path) -> None:
    (rules.parent / "cases.yaml").write_text(CASES.read_text())
    promtool("test", "rules", rules.parent / "cases.yaml")


def test_every_alert_has_a_case(rules: Path) -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(rules.read_text())["groups"] for rule in group["rules"]}
    cases = yaml.safe_load(CASES.read_text())["tests"]
    fired = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check.get("exp_alerts")}
    quiet = {check["alertname"] for case in cases for check in case["alert_rule_test"] if not check.get("exp_alerts")}
    assert fired == alerts
    assert quiet == alerts


def test_alerts_ask_for_metrics_that_there_are(rules: Path) -> None:
    asked_for = ("RUNS", "MEMBERS", "DROPPED_GROUPS", "STEPS", "PODS_NOT_READY", "REDIS_MEMORY")
    offered = {of_rewards.VERDICTS, *(getattr(of_the_coordinator, name) for name in asked_for)}
    names = {sample for metric in offered for sample in (metric._name, f"{metric._name}_total")}
    for group in yaml.safe_load(rules.read_text())["groups"]:
        for rule in group["rules"]:
            asked = {word for word in rule["expr"].replace("{", " ").replace("(", " ").split() if "syncline_" in word}
            assert asked <= names, rule["alert"]
