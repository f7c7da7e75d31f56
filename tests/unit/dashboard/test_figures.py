"""Tests of the pages' figures: formats, the formula with an image's numbers, metrics and the overview."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dashboard.figures.data import open_data
from dashboard.figures.formatting import amount_text, share_text
from dashboard.figures.formula import formula, weights_of
from dashboard.figures.history import Rate
from dashboard.figures.live import difference
from dashboard.figures.metrics import Samples, checked_url, operations
from dashboard.figures.overview import OverviewReader, went_to
from dashboard.figures.visible import visible_works
from gmvaluator.errors import InvalidInput
from gmvaluator.ledger.results import Head, Totals
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_collage, sample_posting, sample_work
from gmvaluator.valuation.policy import Policy, load_policy


@pytest.mark.parametrize(
    ("micros", "text"), [(0, "0.000000"), (1_234_567_890_123, "1,234,567.890123"), (-5, "\N{MINUS SIGN}0.000005")]
)
def test_amounts_are_exact(micros: int, text: str) -> None:
    assert amount_text(micros) == text


def test_a_tiny_share_is_not_shown_as_zero() -> None:
    assert share_text(0.00001).startswith("<")
    assert share_text(0.0).startswith("0.00")


def test_what_was_paid_out_went_to_owners() -> None:
    totals = Totals(100, 30, 20, 5, 5, 40, True, 9, Head(9, "0" * 64))
    assert went_to(totals) == {"owners": 70, "unattributed": 20, "suspense": 5, "held": 5, "paid": 40}


def test_the_formula_gives_what_was_posted() -> None:
    evidence = sample_posting(77, contributors=20).evidence
    last = formula(evidence)[-1]["how"]
    computed = float(re.findall(r"= ([0-9.]+)$", last)[0])
    assert computed == pytest.approx(evidence.contributions[0].credit_micros / 1_000_000, abs=2e-6)
    assert weights_of(evidence)[0] == "1.000000"


def test_the_formula_of_the_calibrated_policy_names_the_unattributed_share() -> None:
    evidence = replace(sample_posting(5, contributors=10).evidence, policy=load_policy("calibrated@2").parameters())
    assert any("exp(" in step["how"] and "r = 1" in step["how"] for step in formula(evidence))


def test_the_formula_of_a_policy_with_parts_gives_what_was_posted() -> None:
    evidence = sample_collage().evidence
    steps = formula(evidence)
    first = evidence.contributions[0]
    assert first.training_image_id == sample_work(1)
    assert float(re.findall(r"= ([0-9.]+)$", steps[-1]["how"])[0]) == pytest.approx(
        first.credit_micros / 1_000_000, abs=2e-6
    )
    text = " ".join(f"{step['what']}: {step['how']}" for step in steps)
    assert "n = 96 cells" in text
    assert "In the 32 cells where 41 matches" in text
    # e^(-7.5 + 6 ln 41), by which the region outweighs everything else in its cells.
    assert "2,627,2" in text
    assert f"r = Σ 1 / (1 + Σ weights in the cell) / n = {evidence.unattributed_share:.6f}" in text
    ratio = evidence.contributions[1].share / first.share
    assert float(weights_of(evidence)[1]) == pytest.approx(ratio, abs=1e-6)


def test_the_formula_shows_the_distance_that_counts_and_the_background_it_follows_from() -> None:
    plain = sample_posting(77, contributors=12).evidence
    settings = {"first": 5, "last": 12, "distance": "0.6", "strength": "0.5"}
    policy = Policy.from_parameters({**load_policy("paper@1").parameters(), "background": settings})
    distances = [row.distance_millionths for row in plain.contributions]
    evidence = replace(plain, policy=policy.parameters())
    text = " ".join(step["how"] for step in formula(evidence))
    assert f"B = {sum(distances[4:]) / 8 / 1_000_000:.6f}" in text
    assert f"= {policy.counted_distances(distances)[0] / 1_000_000:.6f}" in text
    few = replace(evidence, contributions=evidence.contributions[:11])
    assert "d' = d" in [step["how"] for step in formula(few)]


def test_a_step_of_the_formula_names_the_window_that_a_work_was_seen_in() -> None:
    evidence = sample_collage().evidence
    alone = replace(evidence, contributions=evidence.contributions[1:2])
    assert any("In the 64 cells of the window" in step["what"] for step in formula(alone))


def test_regions_are_shown_in_the_order_of_credit_on_pictures_of_their_own_shape(tmp_path: Path) -> None:
    evidence = sample_collage().evidence
    thumbnail = tmp_path / "work.webp"
    Image.new("RGB", (30, 60)).save(thumbnail)
    rows: list[dict[str, Any]] = [{"work_id": "x"} for _ in evidence.contributions]
    seen = visible_works(evidence, rows, [thumbnail] * 3, None)
    assert seen is not None
    assert (seen["width"], seen["height"], seen["more"]) == (256, 128, 0)
    assert [work["number"] for work in seen["works"]] == [1, 2]
    assert [row["seen"] for row in rows] == [2, 1, None]
    assert "33\N{NARROW NO-BREAK SPACE}% of the image, 41 matches" in rows[0]["visible"]
    larger = seen["works"][0]
    # The left half of the picture.
    xs, ys = zip(*re.findall(r"([\d.]+),([\d.]+)", larger["path"]), strict=True)
    assert (max(map(float, xs)), max(map(float, ys))) == (128, 128)
    assert (larger["width"], larger["height"]) == (128, 256)
    assert seen["content"]


def test_a_work_that_must_not_be_seen_has_no_region() -> None:
    evidence = sample_collage().evidence
    rows: list[dict[str, Any]] = [{"work_id": ""}, {"work_id": "mine"}, {"work_id": ""}]
    seen = visible_works(evidence, rows, [Path("absent")] * 3, None)
    assert seen is not None
    assert [work["row"] for work in seen["works"]] == [rows[1]]
    assert visible_works(sample_posting(1).evidence, [{"work_id": "x"}] * 5, [Path("absent")] * 5, None) is None


def test_an_update_holds_only_what_is_new() -> None:
    before = {"feed": [{"sequence": 1}], "chart": {"series": ["a"], "points": [[1, 0.0], [2, 0.0], [3, 1.0]]}}
    points = [[1, 0.0], [2, 0.0], [4, 2.0]]
    after = {"feed": [{"sequence": 2}, {"sequence": 1}], "chart": {"series": ["a"], "points": points}}
    update = difference(before, after)
    assert update["feed"] == [{"sequence": 2}]
    assert update["chart"]["points"] == [[2, 0.0], [4, 2.0]]
    assert not update["chart_whole"]
    other = {**after, "chart": {"series": ["b"], "points": [[1, 0.0]]}}
    assert difference(before, other)["chart_whole"]


QUEUE: Samples = {
    "gmvaluator_queue_images": [({}, 7.0)],
    "gmvaluator_refusals_total": [({"reason": "Overloaded"}, 3.0), ({"reason": "InvalidImage"}, 0.0)],
    "gmvaluator_index_recall": [({"collection": "works"}, 0.989)],
}


def test_quantiles_lie_within_their_buckets() -> None:
    samples: Samples = {
        "gmvaluator_stage_seconds_bucket": [
            ({"stage": "total", "le": le}, count) for le, count in (("0.1", 50.0), ("0.5", 99.0), ("+Inf", 100.0))
        ],
        "gmvaluator_stage_seconds_sum": [({"stage": "total"}, 20.0)],
    }
    found = operations(samples | QUEUE)
    assert (found["waiting"], found["in_flight"], found["refused"], found["recall"]) == (
        7.0, None, 3, [{"collection": "works", "recall": "0.9890"}]
    )  # fmt: skip
    total = next(one for one in operations(samples)["stages"] if one["stage"] == "total")
    assert total == {"stage": "total", "count": 100, "mean_ms": 200.0, "p50_ms": 100.0, "p99_ms": 500.0}


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/metrics", "http://"])
def test_metrics_come_over_http_alone(url: str) -> None:
    with pytest.raises(InvalidInput):
        checked_url(url)
    assert checked_url("127.0.0.1:9464") == "http://127.0.0.1:9464/metrics"


def test_images_per_minute_are_those_of_the_last_minute(tmp_path: Path) -> None:
    with open_ledger(tmp_path, write=True) as ledger:
        ledger.post([sample_posting(number) for number in range(5)])
        with ledger.snapshot() as connection:
            began = datetime.now(UTC)
            rate = Rate()
            assert rate.images_per_minute(connection, 5, began) == 5
            assert rate.images_per_minute(connection, 5, began + timedelta(seconds=4)) == 5
            assert Rate().images_per_minute(connection, 5, began + timedelta(seconds=90)) == 0
            assert rate.images_per_minute(connection, 5, began + timedelta(seconds=90)) == 0
            assert Rate().images_per_minute(connection, 5, began - timedelta(seconds=90)) == 5


def test_where_images_come_fast_the_cards_change_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr("dashboard.figures.overview.utc_now", lambda: now)
    with open_ledger(tmp_path, write=True) as ledger, open_data(DataLocation(tmp_path)) as data:
        reader = OverviewReader(data)
        newest = []
        for step in range(4):
            ledger.post([sample_posting(20 * step + number) for number in range(20)])
            state = reader.read()
            assert state["sequence"] == 20 * (step + 1)
            newest.append(state["feed"][0]["sequence"])
            now += timedelta(seconds=0.4)
        assert newest == [20, 20, 20, 80]
        ledger.post([sample_posting(999)])
        assert reader.read()["feed"][0]["sequence"] == 81
