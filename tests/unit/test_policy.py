"""Policies: reading their files, and dividing credits by them."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidPolicy
from gmvaluator.policy import Policy, load_policy
from gmvaluator.valuation import MILLION

PAPER = load_policy("paper@1")


def written(folder: Path, text: str, name: str = "mine@1") -> Path:
    (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


GOOD = 'policy = "mine@1"\ndepth = 20\nk = 10\ntemperature = "0.05"\n'


@given(st.lists(st.integers(0, 2 * MILLION), max_size=50), st.integers(0, MILLION))
def test_credits_and_residual_sum_to_what_is_issued(distances: list[int], quality: int) -> None:
    value = PAPER.value([f"w{number}" for number in range(len(distances))], distances, quality)
    assert sum(value.credit_micros) + value.unattributed_micros == value.issued_micros == quality
    assert math.isclose(sum(value.shares) + value.unattributed_share, 1)


def test_without_contributors_everything_is_unattributed() -> None:
    value = PAPER.value([], [], 700_000)
    assert (value.unattributed_micros, value.unattributed_share, value.credit_micros) == (700_000, 1.0, ())


def test_a_lower_temperature_pays_the_nearest_more(tmp_path: Path) -> None:
    sharp = load_policy("mine@1", written(tmp_path, GOOD))
    near, far = [100_000, 400_000], MILLION
    assert sharp.value(["a", "b"], near, far).credit_micros[0] > PAPER.value(["a", "b"], near, far).credit_micros[0]


def test_parameters_are_enough_to_value_again() -> None:
    assert Policy.from_parameters(PAPER.parameters()) == PAPER


def test_the_operators_policies_come_before_those_shipped(tmp_path: Path) -> None:
    folder = written(tmp_path, 'policy = "paper@1"\ndepth = 7\nk = 5\ntemperature = "1"\n', "paper@1")
    assert load_policy("paper@1", folder).depth == 7


@pytest.mark.parametrize(
    "text",
    [
        "not toml at all [",
        'policy = "other@1"\ndepth = 20\nk = 10\ntemperature = "1"\n',
        GOOD.replace('"0.05"', "0.05"),
        GOOD.replace("0.05", "NaN"),
        GOOD.replace("0.05", "0"),
        GOOD.replace("0.05", "1e9"),
        GOOD.replace("k = 10", "k = 0"),
        GOOD.replace("k = 10", "k = true"),
        GOOD.replace("k = 10", 'k = "10"'),
        GOOD.replace("k = 10", "k = 21"),
        GOOD.replace("k = 10", "k = 100000000"),
        GOOD + "surprise = 1\n",
        "depth = 20\n",
    ],
)
def test_a_policy_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidPolicy):
        load_policy("mine@1", written(tmp_path, text))


@pytest.mark.parametrize("reference", ["paper", "paper@0", "../paper@1", "paper@1/../../x", "", "PAPER@1", "paper@01"])
def test_what_is_no_policy_name_is_refused(reference: str) -> None:
    with pytest.raises(InvalidPolicy):
        load_policy(reference)


def test_an_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(InvalidPolicy, match="paper@1"):
        load_policy("papers@1")
