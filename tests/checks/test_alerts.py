"""The alerts fire when they should, and ask for metrics that the programs expose."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gmvaluator.index.schema import GROWTH_LIMIT, RECALL_FLOOR
from tests.checks.exposition import NAME, exposed

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
GROUPS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]


def promtool() -> str:
    """The program that `make promtool` puts beside Python, or the machine's own."""
    found = shutil.which("promtool", path=str(Path(sys.executable).parent)) or shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool: `make promtool` takes it from Debian's package prometheus")
    return found


@pytest.mark.parametrize(
    "words",
    [("test", "rules", "alerts_test.yml"), ("check", "rules", "--lint-fatal", "alerts.yml"),
     ("check", "config", "--syntax-only", "prometheus.yml")],
)  # fmt: skip
def test_promtool_accepts(words: tuple[str, ...]) -> None:
    done = subprocess.run([promtool(), *words], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_names_metrics_that_exist(rule: dict[str, Any]) -> None:
    names = set(NAME.findall(re.sub(r"\bgmvaluator:[\w:]+", "", rule["expr"])))
    recorded = set(re.findall(r"\bgmvaluator:[\w:]+", rule["expr"]))
    assert names <= exposed()
    assert recorded <= {one["record"] for one in RULES if "record" in one}
    assert names or recorded or re.search(r"\bup\{", rule["expr"])


def tried() -> Iterator[tuple[str, bool]]:
    """Alerts that the rules' own tests ask for, with whether they should fire."""
    for test in yaml.safe_load((FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]:
        for case in test.get("alert_rule_test", []):
            yield case["alertname"], bool(case.get("exp_alerts"))


def test_every_alert_is_seen_to_fire_and_says_what_to_do() -> None:
    assert {name for name, fires in tried() if fires} == set(ALERTS)
    assert all(rule["annotations"].keys() == {"summary", "action"} for rule in RULES if "alert" in rule)


def test_limits_of_the_index_are_the_products_own() -> None:
    asked = {rule["alert"]: rule["expr"] for rule in RULES if "alert" in rule}
    assert asked["IndexRecallBelowFloor"].endswith(f"< {RECALL_FLOOR}")
    assert asked["IndexOutgrewItsCheck"].endswith(f">= {GROWTH_LIMIT}")
