"""Every query of the Grafana dashboards names metrics that the programs expose."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checks.exposition import NAME, exposed

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"


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
