"""The report is one page that needs nothing else, says what was missed, and takes up a stopped run."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from evaluation import benchmarks
from evaluation.benchmarks import Settings, run_all
from evaluation.report.html import headlines
from evaluation.report.plots import draw
from evaluation.report.sections import Estimate, Gallery, Plot, Section, Table, Tile, from_json, to_json
from gmvaluator.errors import InvalidInput


def a_section(title: str = "Known <sources>") -> Section:
    picture = Image.new("RGB", (28, 28), "navy")
    return Section(
        title,
        ["It was measured & written down."],
        {"ece": 0.04, "c1_mnist_k50": 0.5},
        [Table("Rows", ["policy", "credit"], [["paper@1", Estimate(0.02, 0.01, 0.03)], ["none", None]])],
        [Plot("A line", draw(lambda axes: axes.plot([1, 2], [3, 4]), 2, 1))],
        [Gallery("Pictures", [[Tile(picture, "query"), Tile(picture, "nearest")]])],
        {"seeds": [1, 2]},
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("lite", True, tmp_path / "work", None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two benchmarks instead of the real ones; the list says which ran."""
    ran: list[str] = []

    def first(settings: Settings) -> Sequence[Section]:
        ran.append("first")
        return [a_section()]

    def second(settings: Settings) -> Sequence[Section]:
        ran.append("second")
        if ran.count("second") == 1:
            raise KeyboardInterrupt
        return [a_section("Second")]

    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"first": first, "second": second})
    return ran


def test_a_section_survives_being_stored() -> None:
    section = a_section()
    again = from_json(json.loads(json.dumps(to_json(section))))
    assert again.tables == section.tables
    assert again.figures == section.figures
    assert again.plots == section.plots
    assert [[tile.caption for tile in row] for row in again.galleries[0].rows] == [["query", "nearest"]]


def test_a_stopped_run_is_taken_up(calls: list[str], settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "report"
    with pytest.raises(KeyboardInterrupt):
        run_all(settings, out, "command")
    assert "Known &lt;sources&gt;" in (out / "index.html").read_text()
    result = run_all(settings, out, "command")
    assert calls == ["first", "second", "second"]
    assert [section["title"] for section in result["sections"]] == ["Known <sources>", "Second"]
    assert json.loads((out / "results.json").read_text()) == result


def test_the_page_needs_nothing_else(calls: list[str], settings: Settings, tmp_path: Path) -> None:
    run_all(settings, tmp_path, "command", ["first"])
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert "short run" in page
    assert "0.020 [0.010, 0.030]" in page


def test_an_unknown_benchmark_is_refused(calls: list[str], settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="known: first, second"):
        run_all(settings, tmp_path, "command", ["third"])


def test_the_main_figures_are_those_that_were_measured_in_order() -> None:
    figures = [headline.figure for headline in headlines({"c3_auc": 0.7, "ece": 0.04, "other": 1.0})]
    assert figures == ["ece", "c3_auc"]


def test_a_plot_is_the_same_each_time() -> None:
    one, again = (draw(lambda axes: axes.plot([1, 2], [2, 1])) for _ in range(2))
    assert one == again
    assert one.startswith("<svg")
