"""The near-copy benchmark: its copies, its curve, and that adding copies is measured as it should be."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation.duplicates.inflation import Earned, Target, targets
from evaluation.duplicates.run import IN_USE, duplicates_section, policies_compared
from evaluation.duplicates.threshold import KINDS, LEVELS, MIN_PRECISION, Distances, chosen, curve, near_copy
from evaluation.images.recipes import TEST_OWNERS
from gmvaluator.valuation.policy import load_policy
from indexer.near_duplicates import THRESHOLDS


def picture() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(pixels).resize((160, 120), Image.Resampling.NEAREST)


def distances() -> Distances:
    rng = np.random.default_rng(1)
    copies = {kind: rng.uniform(0, 0.2, 200) for kind in KINDS}
    return Distances(copies, rng.uniform(0.15, 1, 20_000), rng.uniform(0.05, 1, 2_000))


def test_there_are_25_different_copies_of_a_work() -> None:
    made = [near_copy(picture(), kind, level) for kind in KINDS for level in range(LEVELS)]
    assert len({(one.size, one.tobytes()) for one in made}) == len(made) == 25
    assert made[0].tobytes() == near_copy(picture(), KINDS[0], 0).tobytes()
    with pytest.raises(ValueError, match="no near-copy"):
        near_copy(picture(), "painted", 0)


def test_a_crop_takes_a_tenth_of_each_side() -> None:
    assert {near_copy(picture(), "cropped", level).size for level in range(LEVELS)} == {(144, 108)}


def test_recall_rises_with_the_threshold_and_precision_falls_at_last() -> None:
    points = curve(distances())
    recalls = [point.recall_all for point in points]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1
    assert points[-1].precision_other_owners < points[5].precision_other_owners == 1
    assert all(point.precision_all <= point.precision_other_owners for point in points)


def test_the_largest_threshold_that_keeps_other_owners_apart_is_chosen() -> None:
    points = curve(distances())
    best = chosen(points)
    assert best.precision_other_owners >= MIN_PRECISION
    assert all(point.precision_other_owners < MIN_PRECISION for point in points if point.threshold > best.threshold)


def test_works_that_are_copied_are_by_test_artists_half_by_others() -> None:
    found = targets(6)
    assert {one.work.owner_id for one in found} <= TEST_OWNERS
    assert [one.by_owner for one in found] == [True, False] * 3
    assert targets(6) == found


def test_inflation_is_measured_against_what_the_owner_earned() -> None:
    work = targets(1)[0].work
    own, other = Target(work, True), Target(work, False)
    found = {
        name: [Earned(own, 1_000, 1_000 + gain, 1_000), Earned(other, 0, gain, 1_000)]
        for name, gain in (("pays", 5), ("first", 1), ("nearest", 0), ("plain", 900), ("paper@1", 20_000))
    }
    points = curve(distances())
    section = duplicates_section(chosen(points), points, points, found)
    assert section.figures["duplicate_inflation"] == 0.005
    assert section.figures["duplicate_inflation_by_first"] == 0.001
    assert section.figures["duplicate_inflation_by_nearest"] == 0
    assert section.figures["duplicate_inflation_paper"] == 20
    assert section.figures["duplicate_threshold"] == chosen(points).threshold
    assert section.plots[0].svg.startswith("<svg")


def test_the_figure_is_of_the_policy_that_pays_as_it_pays() -> None:
    shipped = load_policy("calibrated@3")
    pays, *others, paper = policies_compared(shipped).values()
    assert pays == shipped
    assert [one.groups for one in others] == ["first", "nearest", None]
    assert all(replace(one, groups=shipped.groups) == shipped for one in others)
    assert paper == load_policy("paper@1")
    assert next(iter(policies_compared(replace(shipped, groups=None)).values())).groups == "first"


def test_the_threshold_in_use_is_the_index_s() -> None:
    assert THRESHOLDS["lite"] == IN_USE
