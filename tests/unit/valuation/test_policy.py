"""Policies: reading their files, and dividing credits by them."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidPolicy, PreconditionFailed
from gmvaluator.valuation.policy import Policy, load_policy
from gmvaluator.valuation.weights import MILLION

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
        GOOD + "temperature_growth = 0.1\n",
        GOOD + 'temperature_growth = "-0.1"\n',
        GOOD + 'temperature_growth = "11"\n',
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


GATED = GOOD + 'residual = { bias = "-9.5", ranks = { 1 = "30", 5 = "-4.25" } }\n'
VIRTUAL = GOOD + 'residual = { distance = "0.4" }\nquality = { floor = "0.25", cap = "0.5" }\n'
GROWING = GOOD + 'temperature_growth = "0.07"\n'
DISTANCES = st.lists(st.integers(0, 2 * MILLION), max_size=10)


@pytest.mark.parametrize("text", [GATED, VIRTUAL, GROWING + GATED[len(GOOD) :], GROWING + VIRTUAL[len(GOOD) :]])
@given(distances=DISTANCES, quality=st.integers(0, MILLION))
def test_with_a_residual_credits_still_sum_to_what_is_issued(
    tmp_path_factory: pytest.TempPathFactory, text: str, distances: list[int], quality: int
) -> None:
    policy = load_policy("mine@1", written(tmp_path_factory.mktemp("policy"), text))
    names = [f"w{number}" for number in range(len(distances))]
    value = policy.value(names, distances, quality)
    assert sum(value.credit_micros) + value.unattributed_micros == value.issued_micros
    assert min([value.unattributed_micros, *value.credit_micros]) >= 0
    assert math.isclose(sum(value.shares) + value.unattributed_share, 1)
    again = Policy.from_parameters(policy.parameters())
    assert again.value(names[::-1], distances[::-1], quality).credit_micros == value.credit_micros[::-1]
    assert policy.shares(distances) == (value.shares, value.unattributed_share)


@pytest.mark.parametrize("rest", ["", GATED[len(GOOD) :], VIRTUAL[len(GOOD) :]])
@given(distances=DISTANCES)
def test_provisional_shares_are_the_shares(
    tmp_path_factory: pytest.TempPathFactory, rest: str, distances: list[int]
) -> None:
    policy = load_policy("mine@1", written(tmp_path_factory.mktemp("policy"), GROWING + rest))
    (shares, unattributed), (rough, rough_unattributed) = policy.shares(distances), policy.provisional_shares(distances)
    assert rough == pytest.approx(shares, abs=1e-9)
    assert rough_unattributed == pytest.approx(unattributed, abs=1e-9)


def test_a_virtual_contributor_is_one_contributor_more(tmp_path: Path) -> None:
    policy = load_policy("mine@1", written(tmp_path, VIRTUAL))
    value = policy.value(["a", "b"], [400_000, 300_000], MILLION)
    weights = [math.exp(-8), math.exp(-6), math.exp(-8)]
    assert value.issued_micros == 500_000
    assert value.unattributed_share == pytest.approx(weights[2] / sum(weights))
    assert value.shares == pytest.approx([weights[0] / sum(weights), weights[1] / sum(weights)])


def test_a_gate_is_a_logistic_regression_on_the_nearest(tmp_path: Path) -> None:
    policy = load_policy("mine@1", written(tmp_path, GATED))
    near, rest = [300_000, 310_000, 350_000, 360_000, 400_000], 1 / (1 + math.exp(9.5 - 30 * 0.3 + 4.25 * 0.4))
    assert policy.shares(near)[1] == pytest.approx(rest)
    assert policy.shares(near[:2])[1] == pytest.approx(1 / (1 + math.exp(9.5 - 30 * 0.3 + 4.25 * 2)))


@pytest.mark.parametrize("text", [GATED, VIRTUAL, GROWING + GATED[len(GOOD) :], GROWING + VIRTUAL[len(GOOD) :]])
def test_the_farther_everything_is_the_less_is_attributed(tmp_path: Path, text: str) -> None:
    policy = load_policy("mine@1", written(tmp_path, text))
    shares = [policy.shares([step * 100_000 + 50_000 * rank for rank in range(5)])[1] for step in range(15)]
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert shares[-1] > 0.99


def test_quality_can_be_left_out(tmp_path: Path) -> None:
    policy = load_policy("mine@1", written(tmp_path, GOOD + 'quality = { floor = "1", cap = "1" }\n'))
    assert policy.value(["a"], [0], 0).issued_micros == MILLION


def test_a_policy_for_another_profile_is_refused(tmp_path: Path) -> None:
    policy = load_policy("mine@1", written(tmp_path, GOOD + f'profile = "{"a" * 64}"\n'))
    policy.check_profile("a" * 64)
    PAPER.check_profile("b" * 64)
    with pytest.raises(PreconditionFailed, match=r"fitted to profile a.*in use is b"):
        policy.check_profile("b" * 64)


@pytest.mark.parametrize(
    "line",
    [
        'residual = "0.4"',
        "residual = { distance = 0.4 }",
        'residual = { distance = "2.5" }',
        'residual = { distance = "NaN" }',
        'residual = { bias = "1" }',
        'residual = { bias = "1", ranks = {} }',
        'residual = { bias = "1", ranks = { 11 = "1" } }',
        'residual = { bias = "1", ranks = { 1 = "1", 01 = "2" } }',
        'residual = { bias = "1", ranks = { first = "1" } }',
        'residual = { bias = "99999", ranks = { 1 = "1" } }',
        'residual = { bias = "0.1234567", ranks = { 1 = "1" } }',
        'residual = { bias = "1", ranks = { 1 = "1" }, distance = "0.4" }',
        'quality = { floor = "0.6", cap = "0.5" }',
        'quality = { cap = "1.5" }',
        'quality = { most = "1" }',
        'quality = "off"',
        'profile = "lite"',
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidPolicy, match=line.split()[0]):
        load_policy("mine@1", written(tmp_path, f"{GOOD}{line}\n"))
