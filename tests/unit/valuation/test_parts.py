"""Shares of works that are seen in parts of an image."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidPolicy
from gmvaluator.keypoints import GRID
from gmvaluator.valuation.parts import (
    NOT_SEEN,
    WHOLE,
    Logit,
    Parts,
    PartsRule,
    Sighting,
    approximate_shares,
    cells,
    mask_text,
    read_mask,
    visible_share,
    visible_text,
)
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.residual import VirtualContributor

FAR = 900_000


def _rule() -> PartsRule:
    zero = Logit(Decimal(-60), Decimal(0))
    return PartsRule(Decimal("0.03"), Decimal("0.05"), Decimal("0.3"), Logit(Decimal(-2), Decimal(4)), zero)


def _policy(**changes: Any) -> Policy:
    settings = {"residual": VirtualContributor(Decimal("0.35")), "parts": _rule(), **changes}
    return Policy("parts", 1, 200, 50, Decimal("0.03"), **settings)


def _box(left: int, top: int, right: int, bottom: int) -> int:
    return sum(1 << GRID * y + x for y in range(top, bottom) for x in range(left, right))


QUADRANTS = (_box(0, 0, 8, 8), _box(8, 0, 16, 8), _box(0, 8, 8, 16), _box(8, 8, 16, 16))
masks = st.integers(0, WHOLE)
sightings = st.builds(Sighting, masks, st.integers(0, 2_000_000), masks, st.integers(0, 300))


def test_four_works_that_fill_a_quarter_each_share_the_image() -> None:
    parts = Parts(WHOLE, tuple(Sighting(region=quadrant, inliers=40) for quadrant in QUADRANTS))
    shares, unattributed = _policy().shares([FAR] * 4, parts)
    assert shares == pytest.approx([0.25] * 4, abs=1e-4)
    assert unattributed < 1e-4


def test_without_parts_the_four_get_next_to_nothing() -> None:
    _, unattributed = _policy().shares([FAR] * 4, None)
    assert unattributed > 0.99


def test_two_works_that_explain_the_same_region_divide_it() -> None:
    half = _box(0, 0, 8, 16)
    other = _box(8, 0, 16, 16)
    seen = (Sighting(region=half, inliers=40), Sighting(region=half, inliers=40), Sighting(region=other, inliers=40))
    shares, _ = _policy().shares([FAR] * 3, Parts(WHOLE, seen))
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=1e-4)


def test_a_blank_part_of_the_image_belongs_to_nobody() -> None:
    drawn = _box(0, 0, 16, 4)
    parts = Parts(drawn, (Sighting(region=_box(0, 0, 16, 2), inliers=40), Sighting(region=WHOLE, inliers=1)))
    shares, unattributed = _policy().shares([FAR] * 2, parts)
    assert shares[0] == pytest.approx(0.5, abs=0.01)
    assert sum(shares) + unattributed == pytest.approx(1)


def test_a_blank_page_is_divided_as_a_whole() -> None:
    shares, unattributed = _policy().shares([100_000], Parts(0, (NOT_SEEN,)))
    assert (shares, unattributed) == _policy().shares([100_000], Parts(WHOLE, (NOT_SEEN,)))


def test_a_near_window_counts_in_its_cells_only() -> None:
    parts = Parts(WHOLE, (Sighting(window=QUADRANTS[0], window_distance=10_000),))
    (share,), unattributed = _policy().shares([FAR], parts)
    assert share == pytest.approx(0.25, abs=0.01)
    assert unattributed == pytest.approx(0.75, abs=0.01)


def test_more_inliers_are_worth_more() -> None:
    shares = [
        _policy().shares([FAR], Parts(WHOLE, (Sighting(region=WHOLE, inliers=count),)))[0][0] for count in range(1, 9)
    ]
    assert shares == sorted(shares)
    assert shares[0] < 0.2 < 0.99 < shares[-1]


@given(st.lists(st.tuples(st.integers(0, 2_000_000), sightings), min_size=1, max_size=8), masks, st.integers(0, 10**6))
def test_credits_add_up_and_follow_the_names_and_not_the_order(
    contributors: list[tuple[int, Sighting]], content: int, quality: int
) -> None:
    names = [f"work {number}" for number in range(len(contributors))]
    order = random.Random(3).sample(range(len(names)), len(names))

    def by_name(places: list[int]) -> dict[str, int]:
        value = _policy().value(
            [names[place] for place in places],
            [contributors[place][0] for place in places],
            quality,
            Parts(content, tuple(contributors[place][1] for place in places)),
        )
        assert sum(value.credit_micros) + value.unattributed_micros == value.issued_micros
        assert min(value.credit_micros) >= 0
        return dict(zip((names[place] for place in places), value.credit_micros, strict=True))

    assert by_name(list(range(len(names)))) == by_name(order)


@given(st.lists(st.tuples(st.integers(0, 2_000_000), sightings), min_size=1, max_size=8), masks)
def test_approximate_shares_are_the_exact_ones(contributors: list[tuple[int, Sighting]], content: int) -> None:
    policy, distances = _policy(), [distance for distance, _ in contributors]
    parts = Parts(content, tuple(sighting for _, sighting in contributors))
    assert policy.residual is not None
    weights, none = policy.residual.weigh(distances, policy.temperature)
    scaled = np.array([weights], dtype=np.float64) / 1e30, np.array([none / 1e30])
    shares, unattributed = approximate_shares([_rule()], parts, *scaled)
    exact, rest = policy.shares(distances, parts)
    np.testing.assert_allclose(shares[0], exact, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(unattributed[0], rest, rtol=1e-6, atol=1e-9)


@given(st.lists(sightings, max_size=6).map(tuple), masks)
def test_sets_of_cells_cover_the_content_once(seen: tuple[Sighting, ...], content: int) -> None:
    assert sum(count for count, _, _ in cells(Parts(content, seen))) == (content or WHOLE).bit_count()


@given(sightings, sightings)
def test_near_duplicates_join_to_the_nearest_window_and_the_best_region(first: Sighting, second: Sighting) -> None:
    joined = first.joined(second)
    assert joined.nearest == min(first.nearest, second.nearest)
    assert joined.inliers == max(first.inliers, second.inliers)


@given(masks)
def test_masks_survive_their_text(mask: int) -> None:
    assert read_mask(mask_text(mask)) == mask


@pytest.mark.parametrize("text", ["", "f" * 63, "-" + "f" * 63, "0x" + "f" * 62, "f_" * 32, " " * 63 + "f", "G" * 64])
def test_text_that_is_no_mask_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no mask"):
        read_mask(text)


_EXTREME = (
    PartsRule(Decimal("0.0001"), Decimal(0), Decimal(2), *(Logit(Decimal(100), Decimal(100)),) * 2),
    PartsRule(Decimal("0.0001"), Decimal("0.000001"), Decimal(2), *(Logit(Decimal(-100), Decimal(-100)),) * 2),
)


@pytest.mark.parametrize("rule", _EXTREME, ids=["huge", "tiny"])
def test_the_most_extreme_rule_that_is_accepted_still_divides_every_image(rule: PartsRule) -> None:
    policy = Policy.from_parameters(_policy(parts=rule).parameters())
    seen = (Sighting(QUADRANTS[0], 0, QUADRANTS[1], 300), Sighting(WHOLE, 0, WHOLE, 300), NOT_SEEN)
    shares, unattributed = policy.shares([FAR] * 3, Parts(WHOLE, seen))
    assert sum(shares) + unattributed == pytest.approx(1)
    approximate, rest = approximate_shares([rule], Parts(WHOLE, seen), np.ones((1, 3)), np.ones(1))
    assert approximate.sum() + rest[0] == pytest.approx(1)


@pytest.mark.parametrize("rule", [_rule(), replace(_rule(), members=Decimal(6))], ids=["plain", "members"])
def test_parameters_are_read_again(rule: PartsRule) -> None:
    policy = _policy(parts=rule)
    assert Policy.from_parameters(policy.parameters()) == policy


def _member_shares(distances: list[int], seen: list[Sighting], slope: str | None = "6") -> list[float]:
    rule = replace(_rule(), members=None if slope is None else Decimal(slope))
    weights = rule.member_weights(distances, seen, Decimal("0.02"), Decimal("0.05"))
    return [weight / sum(weights) for weight in weights]


def test_of_like_drawings_the_one_whose_details_an_image_shows_is_paid() -> None:
    """In a collage all of them are far from the whole image, and the likest as a whole may be another."""
    seen = [Sighting(QUADRANTS[0], 240_000), Sighting(QUADRANTS[0], 160_000, QUADRANTS[0], 84)]
    assert _member_shares([806_000, 862_000], seen)[1] > 0.99
    assert _member_shares([806_000, 862_000], seen, None)[1] < 0.4


def test_of_like_drawings_without_details_the_nearest_in_a_window_is_paid() -> None:
    seen = [Sighting(QUADRANTS[0], 240_000), Sighting(QUADRANTS[0], 160_000)]
    assert _member_shares([806_000, 862_000], seen)[1] > 0.8


def test_like_drawings_of_equal_evidence_are_paid_alike() -> None:
    assert _member_shares([300_000] * 2, [Sighting(WHOLE, 200_000, WHOLE, 40)] * 2) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"residual": {"bias": "-7", "ranks": {"1": "18"}}}, "no residual.distance"),
        ({"parts": {}}, "no tables of windows"),
        ({"parts": {"windows": {}, "verified": {}, "elsewhere": {}}}, "a temperature and a distance"),
        ({"verified": {"bias": "-3"}}, "no table of bias and slope"),
        ({"verified": {"bias": "-300", "slope": "1"}}, "give 100 at most"),
        ({"members": {}}, "no table of slope"),
        ({"members": {"slope": "-1"}}, "give 0 to 100"),
    ],
)
def test_a_wrong_rule_is_refused(change: dict[str, Any], message: str) -> None:
    parameters = _policy().parameters()
    inner = {name: change[name] for name in change if name in ("verified", "members")}
    parts, outer = {**parameters["parts"], **inner}, {name: change[name] for name in change if name not in inner}
    with pytest.raises(InvalidPolicy, match=message):
        Policy.from_parameters({**parameters, "parts": parts, **outer})


def test_the_share_of_an_image_is_of_the_cells_that_show_anything() -> None:
    left, top = _box(0, 0, 8, 16), _box(0, 0, 16, 8)
    assert visible_share(left, top) == 0.5
    assert visible_share(left, left) == 1
    assert visible_share(left, 0) == 0.5
    assert visible_text(0.2449, 41) == "visible in 24% of the image, 41 matches"
    assert visible_text(1 / 256, 1_000) == "visible in under 1% of the image, 1,000 matches"
