"""Intervals contain the share, grow with uncertainty, and are not needed to replay."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidPolicy
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.uncertainty import Intervals, Uncounted
from gmvaluator.valuation.weights import MILLION


def replicate(temperature: float, bias: float) -> dict[str, Any]:
    return {"temperature": f"{temperature:.4f}", "residual": {"bias": f"{bias:.3f}", "ranks": {"1": "12"}}}


NOTHING = Uncounted()
SPREAD = [replicate(0.03 + 0.001 * place, -4 + 0.05 * place) for place in range(20)]


def policy(replicates: list[dict[str, Any]] | None = None, **more: Any) -> Policy:
    uncertainty = {"replicates": SPREAD if replicates is None else replicates, **more}
    residual = {"bias": "-3.5", "ranks": {"1": "12"}}
    settings = {"policy": "mine@1", "depth": 20, "k": 10, "temperature": "0.04", "residual": residual}
    return Policy.from_parameters({**settings, "uncertainty": uncertainty})


def intervals(distances: list[int], uncounted: Uncounted = NOTHING, *, by: Policy | None = None) -> Intervals:
    bounds = (by or policy()).intervals(distances, uncounted)
    assert bounds is not None
    return bounds


@given(st.lists(st.integers(0, 2 * MILLION), min_size=1, max_size=10).map(sorted))
def test_an_interval_holds_its_share(distances: list[int]) -> None:
    shares, unattributed = policy().shares(distances)
    bounds = intervals(distances)
    for share, (low, high) in zip((*shares, unattributed), (*bounds.contributors, bounds.unattributed), strict=True):
        assert 0 <= low <= share * MILLION + 1e-6
        assert share * MILLION - 1e-6 <= high <= MILLION


def test_fits_that_agree_leave_no_doubt() -> None:
    same = policy([replicate(0.04, -3.5)] * 5)
    for low, high in intervals([100_000, 150_000], by=same).contributors:
        assert high - low <= 2


def test_what_was_not_counted_widens_an_interval_below_only() -> None:
    near = [100_000, 150_000, 200_000]
    plain = intervals(near)
    for uncounted in (Uncounted(cut=[210_000]), Uncounted(unlisted=150), Uncounted(recall=0.9)):
        wider = intervals(near, uncounted)
        assert wider.contributors[0][0] < plain.contributors[0][0]
        assert [high for _, high in wider.contributors] == [high for _, high in plain.contributors]


@pytest.mark.parametrize("temperature", ["0.1", "0.0001"])
def test_a_nearer_work_after_the_cut_changes_nothing_but_the_lower_ends(temperature: str) -> None:
    """Works that are verified in parts of an image come first, however far the whole image is from them."""
    settings = {"temperature": temperature, "residual": {"distance": "0.92"}}
    both = {"policy": "mine@1", "depth": 20, "k": 10, **settings, "uncertainty": {"replicates": [settings, settings]}}
    fitted = Policy.from_parameters(both)
    plain, nearer = (intervals([900_000], uncounted, by=fitted) for uncounted in (NOTHING, Uncounted(cut=[100_000])))
    assert nearer.unattributed == plain.unattributed
    assert nearer.contributors[0][1] == plain.contributors[0][1]
    assert nearer.contributors[0][0] < plain.contributors[0][0] / 100


def test_what_lies_far_after_the_cut_hides_little() -> None:
    near = [100_000, 150_000]
    far = intervals(near, Uncounted(cut=[1_500_000], unlisted=100))
    assert far.contributors[0][0] == pytest.approx(intervals(near).contributors[0][0], abs=2)


@pytest.mark.parametrize("growth", ["0", "0.7"])
def test_replicates_weigh_as_the_policy_does(growth: str) -> None:
    settings = {"temperature": "0.05", "temperature_growth": growth, "residual": {"bias": "-3", "ranks": {"1": "9"}}}
    both = {"policy": "mine@1", "depth": 20, "k": 10, **settings, "uncertainty": {"replicates": [settings, settings]}}
    for low, high in intervals([100_000, 150_000, 400_000], by=Policy.from_parameters(both)).contributors:
        assert high - low <= 2


def test_a_missed_neighbour_lowers_the_unattributed_share() -> None:
    assert intervals([600_000], Uncounted(recall=0.5)).unattributed[0] < 0.6 * intervals([600_000]).unattributed[0]


def test_evidence_names_the_replicates_and_keeps_the_limit() -> None:
    full = policy(hold_above="0.25")
    kept = Policy.from_parameters(full.parameters())
    assert kept == full
    assert kept.parameters() == full.parameters()
    assert kept.intervals([100_000], Uncounted()) is None
    assert kept.uncertainty is not None
    assert kept.uncertainty.holds_back((0, 250_001))
    assert not kept.uncertainty.holds_back((0, 250_000))


def test_another_fit_has_another_hash() -> None:
    first, other = policy().uncertainty, policy(SPREAD[:-1]).uncertainty
    assert first is not None
    assert other is not None
    assert first.sha256 != other.sha256


def test_a_policy_without_refits_says_nothing() -> None:
    settings = {"policy": "mine@1", "depth": 20, "k": 10, "temperature": "0.04"}
    assert Policy.from_parameters(settings).intervals([100_000], Uncounted()) is None
    assert intervals([600_000, 700_000], by=Policy.from_parameters({
        **settings,
        "residual": {"distance": "0.5"},
        "uncertainty": {"replicates": [{"temperature": "0.05", "residual": {"distance": "0.4"}}] * 2},
    })).unattributed[1] > 900_000  # fmt: skip


@pytest.mark.parametrize(
    "uncertainty",
    [
        "none",
        {},
        {"replicates": []},
        {"replicates": [replicate(0.04, -3)]},
        {"replicates": [{"temperature": "0"}] * 2},
        {"replicates": [{"temperature": "0.1", "more": "1"}] * 2},
        {"replicates": SPREAD, "hold_above": "1.5"},
        {"replicates": SPREAD, "hold_above": 0.5},
        {"count": 3, "sha256": "short"},
        {"count": True, "sha256": "a" * 64},
    ],
)
def test_an_uncertainty_that_cannot_be_used_is_refused(uncertainty: Any) -> None:
    settings = {"policy": "mine@1", "depth": 20, "k": 10, "temperature": "0.04", "uncertainty": uncertainty}
    with pytest.raises(InvalidPolicy, match="mine@1"):
        Policy.from_parameters(settings)


@pytest.mark.parametrize("groups", ["all", True, ""])
def test_a_way_of_grouping_that_is_unknown_is_refused(groups: Any) -> None:
    settings = {"policy": "mine@1", "depth": 20, "k": 10, "temperature": "0.04", "groups": groups}
    with pytest.raises(InvalidPolicy, match="groups"):
        Policy.from_parameters(settings)


def test_the_papers_policy_says_what_it_always_said() -> None:
    settings = {"policy": "paper@1", "depth": 200, "k": 50, "temperature": "1"}
    assert Policy.from_parameters(settings).parameters() == settings
    assert Policy.from_parameters(settings).temperature == Decimal(1)
