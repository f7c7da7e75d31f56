"""Distances are normalised by those of the works that merely resemble an image, and credits stay exact."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation.background import Background
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.uncertainty import Uncounted
from gmvaluator.valuation.weights import MILLION

RULE = Background(2, 4, Decimal("0.6"), Decimal("0.5"))
TABLE: dict[str, Any] = RULE.parameters()
SETTINGS: dict[str, Any] = {
    "policy": "mine@1",
    "depth": 20,
    "k": 10,
    "temperature": "0.05",
    "residual": {"distance": "0.3"},
    "background": TABLE,
}
DISTANCES = st.lists(st.integers(0, 2 * MILLION), min_size=1, max_size=10)


def test_an_image_of_the_usual_background_counts_as_it_is() -> None:
    distances = [100_000, 500_000, 600_000, 700_000]
    assert RULE.normalised(distances) == distances


def test_the_same_distance_counts_for_more_where_everything_else_is_far() -> None:
    near, far = [200_000] + [300_000] * 3, [200_000] + [900_000] * 3
    # 0.2 · 0.6 / (0.6 + 0.5 · (0.3 - 0.6)) and 0.2 · 0.6 / (0.6 + 0.5 · (0.9 - 0.6))
    assert (RULE.normalised(near)[0], RULE.normalised(far)[0]) == (266_666, 160_000)


def test_at_full_strength_only_the_ratio_counts() -> None:
    ratio = Background(2, 4, Decimal("0.6"), Decimal(1))
    assert ratio.normalised([100_000] + [300_000] * 3) == ratio.normalised([200_000] + [600_000] * 3)


def test_too_few_works_have_no_background() -> None:
    assert RULE.normalised([100_000, 900_000, 900_000]) == [100_000, 900_000, 900_000]


@pytest.mark.parametrize("strength", ["0", "0.5", "1"])
@given(distances=DISTANCES)
def test_distances_stay_in_range_and_in_order(strength: str, distances: list[int]) -> None:
    counted = Background(2, 4, Decimal("0.6"), Decimal(strength)).normalised(distances)
    assert all(0 <= distance <= 2 * MILLION for distance in counted)
    order = sorted(range(len(distances)), key=lambda place: distances[place])
    assert [counted[place] for place in order] == sorted(counted)
    if strength == "0":
        assert counted == distances


@given(distances=DISTANCES)
def test_floating_point_is_close(distances: list[int]) -> None:
    rough = RULE.approximate(np.array(distances, dtype=np.float64), RULE.of(distances))
    np.testing.assert_allclose(rough, RULE.normalised(distances), atol=8)  # the divisor is rounded to a millionth


@given(distances=DISTANCES, quality=st.integers(0, MILLION))
def test_credits_add_up_and_follow_the_names_and_not_the_order(distances: list[int], quality: int) -> None:
    policy = Policy.from_parameters(SETTINGS)
    names = [f"work {number}" for number in range(len(distances))]
    value = policy.value(names, distances, quality)
    assert sum(value.credit_micros) + value.unattributed_micros == value.issued_micros
    again = Policy.from_parameters(policy.parameters()).value(names[::-1], distances[::-1], quality)
    assert again.credit_micros == value.credit_micros[::-1]
    assert policy.provisional_shares(distances)[0] == pytest.approx(value.shares, abs=1e-9)


@given(distances=DISTANCES.map(sorted))
def test_an_interval_holds_its_share(distances: list[int]) -> None:
    refit = {name: SETTINGS[name] for name in ("temperature", "residual", "background")}
    policy = Policy.from_parameters({**SETTINGS, "uncertainty": {"replicates": [refit, refit]}})
    shares, _ = policy.shares(distances)
    bounds = policy.intervals(distances, Uncounted())
    assert bounds is not None
    for share, (low, high) in zip(shares, bounds.contributors, strict=True):
        assert low <= share * MILLION <= high
        assert high - low <= 60  # distances are rounded down to millionths in the exact share only


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": 0}, "ranks 0 to 4"),
        ({"first": 5}, "ranks 5 to 4"),
        ({"last": 11}, "from 1 to k = 10"),
        ({"last": True}, "ranks 2 to True"),
        ({"distance": "0"}, "above 0"),
        ({"distance": 0.6}, "decimal string"),
        ({"strength": "1.5"}, "from 0 to 1"),
        ({"strength": "-0.1"}, "from 0 to 1"),
        ({"other": "1"}, "no table"),
    ],
)
def test_a_background_that_cannot_be_used_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPolicy, match=message):
        Policy.from_parameters({**SETTINGS, "background": {**TABLE, **change}})


def test_refits_without_a_background_are_refused() -> None:
    refit = {name: SETTINGS[name] for name in ("temperature", "residual")}
    with pytest.raises(InvalidPolicy, match="table `background`, or replicates with one"):
        Policy.from_parameters({**SETTINGS, "uncertainty": {"replicates": [refit, refit]}})
