"""Tests of `gmvaluator bench index` with small sizes: plausible figures, and cached results."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.bench.index import local_features, rates, tables
from evaluation.bench.index.page import BEGIN, END, write_page, write_plots
from evaluation.bench.index.run import Sizes, bench_index
from evaluation.bench.index.vectors import BLOCK, Vectors, nearest, recalls, two_nn_dimension
from gmvaluator.errors import InvalidInput
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.ports import Float32Array

SIZES = Sizes(points=260, embed=260, questions=6, given=100, growth=(60, 260))
ALL = ("embeddings", "queries", "compressions", "growth")


def units(count: int, dimension: int, spread: int | None = None) -> Float32Array:
    """Return unit vectors that spread in `spread` random directions."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(count, spread or dimension)) @ random.normal(size=(spread or dimension, dimension))
    unit: Float32Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keep")


@pytest.fixture(scope="module")
def figures(keep: Path) -> dict[str, Any]:
    return bench_index(ALL, SIZES, keep)


def test_every_figure_is_present_and_plausible(figures: dict[str, Any]) -> None:
    assert figures["points_per_s"] > 0
    assert figures["points_per_s_ten_views"] > 0
    assert 0.9 <= figures["recall_at_50"] <= 1
    assert 0 < figures["two_stage_p50_ms"] <= figures["two_stage_p99_ms"]
    assert figures["query_p99_during_build_ms"] > 0
    assert figures["code_bytes_per_vector"] <= figures["code_bytes_bound"] == 64
    assert 1 < figures["intrinsic_dimension"] < 100
    assert sum(figures["made_by"].values()) == SIZES.points


def test_the_table_has_a_row_for_every_quantisation(figures: dict[str, Any]) -> None:
    rows = figures["compressions"]
    assert [row["quantisation"] for row in rows] == list(CHOICES)
    for row in rows:
        assert row["quantised_share"] == 1
        assert row["recall_at_50_unrescored"] <= row["recall_at_50"] <= 1
        assert row["recall_at_50"] > 0.9
        assert row["faiss_recall_at_50"] > 0.9
        assert row["faiss_code_bytes_per_vector"] <= row["code_bytes_per_vector"]
        assert 0 < row["ram_bytes"] < row["disk_bytes"]


def test_the_growth_curve_has_a_row_for_every_number_of_points(figures: dict[str, Any]) -> None:
    assert [row["points"] for row in figures["growth"]] == [60, 260]
    assert all(row["build_minutes_per_million"] > 0 for row in figures["growth"])


def test_fetches_of_local_features_are_measured_and_their_bytes() -> None:
    (row,) = local_features.measure([100], 3)["rows"]
    assert 0 < row["repeated_fetch_p50_ms"] < row["first_fetch_p50_ms"] <= row["first_fetch_p99_ms"]
    assert row["disk_bytes_per_work"] > row["disk_bytes_per_work_without"] + 10_000


def test_the_page_gets_its_tables_and_plots(figures: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    report = {
        "figures": figures,
        "machine": {"cores": 2, "processor": "x", "memory_gib": 1},
        "command": "c",
        "commit": "d",
    }
    write_page(report, page)
    write_plots(figures, tmp_path)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| figure |")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "old" not in text
    assert all(f"| `{name}` |" in text for name in CHOICES)
    assert {path.name for path in tmp_path.glob("*.svg")} == {"bench-index-recall.svg", "bench-index-growth.svg"}


def test_a_page_without_a_place_for_the_figures_is_refused(figures: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no place")
    with pytest.raises(InvalidInput, match="no place for the figures"):
        write_page({"figures": figures}, page)


def test_growth_is_compared_with_a_tenth_of_the_points() -> None:
    rows = [
        {"points": count, "two_stage_p99_ms": ms} for count, ms in ((10_000, 2.0), (100_000, 3.0), (1_000_000, 4.5))
    ]
    assert tables.growth_ratio(rows) == {"growth_p99_ratio_100k_to_10k": 1.5, "growth_p99_ratio_1m_to_100k": 1.5}


def test_a_second_run_measures_nothing_again(figures: dict[str, Any], keep: Path) -> None:
    again = bench_index(ALL, SIZES, keep)
    assert {"embeddings-100", "queries-260", "growth-60", "compression-scalar-260"} <= set(
        again["kept_from_earlier_runs"]
    )
    assert again["compressions"] == figures["compressions"]
    assert not list(keep.glob("gmvaluator-bench-*"))


def test_indexing_is_compared_with_the_baseline(tmp_path: Path) -> None:
    figures = rates.indexing(tmp_path, 3, rounds=1)
    assert figures["indexing_images"] == 3
    assert 0.05 < figures["indexing_to_embed_ratio"] < 2


def test_vectors_do_not_depend_on_the_range_they_are_requested_in() -> None:
    vectors = Vectors(units(40, 16), 10, 2 * BLOCK + 100)
    whole = vectors.all()
    assert whole.shape == (2 * BLOCK + 100, 16)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    assert np.array_equal(whole[:40], vectors.real)
    assert np.array_equal(whole[30 : BLOCK + 7], vectors.rows(30, BLOCK + 7))
    assert len(np.unique(whole, axis=0)) == len(whole)
    assert vectors.made_by() == {
        "pictures_as_they_are": 10,
        "image_level_augmentations": 30,
        "interpolated_between_augmentations_of_one_picture": 2 * BLOCK + 60,
    }


def test_interpolating_needs_three_embeddings_of_each_picture() -> None:
    with pytest.raises(InvalidInput, match="--embed"):
        Vectors(units(20, 16), 10, 100)


def test_intrinsic_dimension_is_the_number_of_directions_minus_one() -> None:
    assert two_nn_dimension(units(4_000, 64, spread=6)) == pytest.approx(5, abs=0.7)
    assert two_nn_dimension(units(4_000, 64, spread=3)) == pytest.approx(2, abs=0.3)


def test_ground_truth_is_that_of_a_plain_sort_and_recall_counts_no_result_twice() -> None:
    rows, queries = units(500, 16), units(7, 16)
    numbers, cosines = nearest(rows, queries, 10)
    assert np.array_equal(numbers, np.argsort(-(queries @ rows.T), axis=1)[:, :10])
    kth_cosines = cosines[:, -1]
    assert recalls(numbers.tolist(), rows, queries, kth_cosines, 10).tolist() == [1.0] * 7
    assert recalls([[row[0]] * 10 for row in numbers.tolist()], rows, queries, kth_cosines, 10) == pytest.approx(0.1)
