"""Every query of the Grafana dashboards names metrics that the programs expose."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from attributor import metrics
from dashboard.live import Live
from dashboard.telemetry import exposition

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
NAME = re.compile(r"\bgmvaluator_\w+")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


def exposed() -> set[str]:
    """Names of samples, whether or not there are any yet."""
    live = Live(dict, lambda: 0, 0.25)
    texts = [generate_latest(metrics.REGISTRY).decode(), exposition(live).decode()]
    families = [family for text in texts for family in text_string_to_metric_families(text)]
    found = {family.name + suffix for family in families for suffix in SUFFIXES.get(family.type, ())}
    # Told by a collector that a running attributor registers; its source is the list.
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    gauges = source.split("gauges = {")[1].split("}")[0]
    return found | set(NAME.findall(gauges))


def queries() -> Iterator[tuple[str, str]]:
    for path in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


@pytest.mark.parametrize(("panel", "query"), list(queries()))
def test_a_query_names_metrics_that_exist(panel: str, query: str) -> None:
    names = set(NAME.findall(query))
    assert names, panel
    assert names <= exposed(), panel


def test_panels_do_not_overlap() -> None:
    for path in FOLDER.glob("*.json"):
        panels = json.loads(path.read_text(encoding="utf-8"))["panels"]
        cells = [
            (x, y)
            for place in (panel["gridPos"] for panel in panels)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]
        assert len(cells) == len(set(cells))
