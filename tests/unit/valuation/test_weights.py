"""Equations 4-6 and largest remainder: what holds for any distances and any quality."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidValuation
from gmvaluator.valuation.weights import (
    MILLION,
    distance_millionths,
    divide,
    issued_micros,
    quality_millionths,
    shares,
    similarity_weights,
)

distances = st.lists(st.integers(0, 2 * MILLION), min_size=1, max_size=60)
weights = st.lists(st.integers(0, 10**30), min_size=1, max_size=60).filter(any)
amounts = st.integers(0, 10**12)


def names_of(values: list[int]) -> list[str]:
    return [f"work-{number:03}" for number in range(len(values))]


@given(distances)
def test_shares_are_the_papers_softmax_of_minus_distance(values: list[int]) -> None:
    plain = [math.exp(-value / MILLION) for value in values]
    expected = [weight / math.fsum(plain) for weight in plain]
    assert shares(similarity_weights(values)) == pytest.approx(expected, rel=1e-12)


@given(distances, st.decimals("0.001", "10", places=4))
def test_a_nearer_image_never_weighs_less(values: list[int], temperature: Decimal) -> None:
    by_distance = sorted(zip(values, similarity_weights(values, temperature), strict=True))
    ordered = [weight for _, weight in by_distance]
    assert ordered == sorted(ordered, reverse=True)


@given(distances, st.decimals("0.001", "1", places=4), st.decimals("0.001", "2", places=4))
def test_a_growing_temperature_is_a_power_law(values: list[int], temperature: Decimal, growth: Decimal) -> None:
    """Against its closed form in floating point."""
    scale, power = float(temperature), float(1 / growth)
    nearest = scale + float(growth) * min(values) / MILLION
    plain = [(nearest / (scale + float(growth) * value / MILLION)) ** power for value in values]
    expected = [weight / math.fsum(plain) for weight in plain]
    assert shares(similarity_weights(values, temperature, growth)) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(distances, st.decimals("0.01", "1", places=4))
def test_a_temperature_that_hardly_grows_weighs_as_one_that_does_not(values: list[int], temperature: Decimal) -> None:
    growing = shares(similarity_weights(values, temperature, Decimal("0.000001")))
    assert growing == pytest.approx(shares(similarity_weights(values, temperature)), abs=1e-2)


def test_the_nearer_the_more_a_difference_counts() -> None:
    near, far = (similarity_weights([at, at + 20_000], Decimal("0.01"), Decimal("0.1")) for at in (0, 400_000))
    assert near[1] / near[0] < 0.25 < 0.6 < far[1] / far[0]


@given(amounts, weights)
def test_parts_sum_to_the_whole_and_none_is_negative(amount: int, values: list[int]) -> None:
    parts = divide(amount, values, names_of(values))
    assert sum(parts) == amount
    assert min(parts) >= 0


@given(amounts, weights)
def test_each_part_is_its_quota_rounded_down_or_up(amount: int, values: list[int]) -> None:
    for part, weight in zip(divide(amount, values, names_of(values)), values, strict=True):
        assert part - 1 < amount * weight / sum(values) < part + 1 or part == amount * weight // sum(values)


@given(amounts, weights, st.randoms())
def test_the_order_of_contributors_is_irrelevant(amount: int, values: list[int], random: object) -> None:
    names = names_of(values)
    pairs = list(zip(names, values, strict=True))
    random.shuffle(pairs)  # type: ignore[attr-defined]
    shuffled_names, shuffled = zip(*pairs, strict=True)
    straight = dict(zip(names, divide(amount, values, names), strict=True))
    assert dict(zip(shuffled_names, divide(amount, shuffled, shuffled_names), strict=True)) == straight


@given(amounts, weights)
def test_no_part_is_rounded_up_before_one_with_a_larger_remainder(amount: int, values: list[int]) -> None:
    total, parts = sum(values), divide(amount, values, names_of(values))
    remainders = [amount * weight % total for weight in values]
    up = [part - amount * weight // total for part, weight in zip(parts, values, strict=True)]
    raised = [remainder for remainder, is_up in zip(remainders, up, strict=True) if is_up]
    kept = [remainder for remainder, is_up in zip(remainders, up, strict=True) if not is_up]
    assert min(raised, default=total) >= max(kept, default=0)


def test_a_division_by_hand() -> None:
    assert divide(10, [1, 2, 4], ["a", "b", "c"]) == [1, 3, 6]


def test_equal_remainders_go_to_the_first_names() -> None:
    assert divide(2, [1, 1, 1], ["c", "a", "b"]) == [0, 1, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 2.1])
def test_no_impossible_distance_passes(value: float) -> None:
    with pytest.raises(InvalidValuation):
        distance_millionths(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_no_impossible_quality_passes(value: float) -> None:
    with pytest.raises(InvalidValuation):
        quality_millionths(value)


def test_rounding_noise_at_the_ends_is_taken_as_the_ends() -> None:
    assert distance_millionths(-1e-7) == 0
    assert quality_millionths(1 + 1e-7) == MILLION


def test_one_image_of_quality_one_issues_one_credit() -> None:
    assert issued_micros(MILLION) == 1_000_000
    assert issued_micros(0) == 0


@pytest.mark.parametrize(
    ("amount", "values", "names"),
    [(-1, [1], ["a"]), (1, [0, 0], ["a", "b"]), (1, [2, -1], ["a", "b"]), (1, [1, 1], ["a", "a"]), (1, [1], [])],
)
def test_what_cannot_be_divided_is_refused(amount: int, values: list[int], names: list[str]) -> None:
    with pytest.raises(InvalidValuation):
        divide(amount, values, names)


@pytest.mark.parametrize("temperature", ["0", "-1", "NaN", "Infinity"])
def test_impossible_temperatures_are_refused(temperature: str) -> None:
    with pytest.raises(InvalidValuation):
        similarity_weights([1, 2], Decimal(temperature))


@pytest.mark.parametrize("growth", ["-0.1", "NaN", "Infinity"])
def test_impossible_growths_are_refused(growth: str) -> None:
    with pytest.raises(InvalidValuation, match="growth"):
        similarity_weights([1, 2], Decimal(1), Decimal(growth))
