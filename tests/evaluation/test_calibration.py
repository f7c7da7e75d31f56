"""Calibrating finds what made the data, holds to the formula that is paid by, and never rewrites a policy."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from evaluation.known_source.fit import (
    Examples,
    bootstrap_gates,
    choose_gate,
    contributor_log_shares,
    fit_gate,
    fit_growing_temperature,
    fit_temperature,
    fit_virtual,
    gate_logit,
    mean_log_likelihood,
    virtual_logit,
)
from evaluation.known_source.parts_fit import START, PartsFit
from evaluation.known_source.policy_file import Fitted, check_reference, policy_text, write_policy
from gmvaluator.errors import Conflict, InvalidPolicy
from gmvaluator.valuation.policy import Policy, load_policy
from gmvaluator.valuation.residual import Gate, VirtualContributor
from gmvaluator.valuation.weights import MILLION

TEMPERATURE, GATE_BIAS, GATE_SLOPE = 0.08, -8.0, 20.0


def drawn(count: int = 4_000, k: int = 10, seed: int = 5, growth: float = 0.0) -> Examples:
    """Images whose source follows a softmax of TEMPERATURE, and is absent by a gate on the nearest distance."""
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.uniform(0.1, 0.9, (count, k)), axis=1)
    shares = np.exp(contributor_log_shares(distances, TEMPERATURE, growth))
    picks = (shares.cumsum(axis=1) > rng.random((count, 1))).argmax(axis=1)
    gone = rng.random(count) < 1 / (1 + np.exp(-(GATE_BIAS + GATE_SLOPE * distances[:, 0] * 2)))
    sources = np.eye(k)[picks] * ~gone[:, None]
    return Examples(distances, sources, np.array([f"artist-{row % 20}" for row in range(count)]))


def test_the_temperature_that_made_the_data_is_found() -> None:
    assert fit_temperature(drawn()) == pytest.approx(TEMPERATURE, rel=0.08)


def test_the_growth_that_made_the_data_is_found() -> None:
    temperature, growth = fit_growing_temperature(drawn(growth=0.3))
    assert growth == pytest.approx(0.3, rel=0.3)
    assert temperature == pytest.approx(TEMPERATURE, rel=0.5)


def test_where_the_temperature_does_not_grow_none_is_found_to() -> None:
    examples = drawn()
    found = contributor_log_shares(examples.distances, *fit_growing_temperature(examples))
    assert np.exp(found) == pytest.approx(np.exp(contributor_log_shares(examples.distances, TEMPERATURE)), abs=0.05)


def test_the_gate_that_made_the_data_is_found() -> None:
    gate = fit_gate(drawn(), (1,), ridge=1e-6)
    assert gate.bias == pytest.approx(GATE_BIAS, rel=0.12)
    assert gate.coefficients[0] == pytest.approx(2 * GATE_SLOPE, rel=0.12)


def test_a_fit_is_likelier_than_any_neighbour() -> None:
    examples = drawn(1_000)
    gate, virtual = fit_gate(examples, (1, 2), ridge=0.0), fit_virtual(examples)
    best = gate.log_likelihood(examples)
    for other in (replace(gate, temperature=gate.temperature * 1.2), replace(gate, bias=gate.bias + 0.4)):
        assert other.log_likelihood(examples) < best
    for moved in (replace(virtual, distance=virtual.distance + 0.05), replace(virtual, temperature=0.2)):
        assert moved.log_likelihood(examples) < virtual.log_likelihood(examples)


def test_the_choice_of_a_gate_repeats() -> None:
    examples = drawn(600, k=50)
    assert choose_gate(examples) == choose_gate(examples)


@pytest.mark.parametrize("growth", [0.0, 0.06])
def test_what_is_fitted_is_what_is_paid_by(growth: float) -> None:
    distances = drawn(20).distances
    gate = Policy("a", 1, 10, 10, Decimal("0.08"), Gate(Decimal(-3), ((1, Decimal(9)), (4, Decimal(-2)))))
    virtual = Policy("b", 1, 10, 10, Decimal("0.08"), VirtualContributor(Decimal("0.4")))
    logits = gate_logit(distances, -3, (1, 4), (9, -2)), virtual_logit(distances, 0.08, growth, 0.4)
    for plain, logit in zip((gate, virtual), logits, strict=True):
        policy = replace(plain, growth=Decimal(str(growth)))
        for row, values in enumerate(distances):
            shares, nobody = policy.shares([round(value * MILLION) for value in values])
            expected = 1 / (1 + np.exp(-logit[row]))
            assert nobody == pytest.approx(expected, abs=1e-4)
            log_shares = contributor_log_shares(values[None], 0.08, growth)[0]
            assert shares == pytest.approx((1 - expected) * np.exp(log_shares), abs=1e-4)


def test_an_absent_source_is_likely_only_where_something_goes_to_nobody() -> None:
    examples = Examples(np.array([[0.9, 1.0]]), np.zeros((1, 2)), np.array(["stranger"]))
    log_shares = contributor_log_shares(examples.distances, 0.1)
    assert mean_log_likelihood(examples, log_shares, None) == pytest.approx(np.log(1e-6))
    assert mean_log_likelihood(examples, log_shares, np.array([3.0])) > -0.1


def test_the_file_is_a_policy(tmp_path: Path) -> None:
    gate = fit_gate(drawn(500), (1, 3), ridge=0.01)
    text = policy_text("mine@2", "a" * 64, 200, 50, gate, Fitted("b" * 64, 500, 0.25, -0.5, -0.6, -6.0))
    (tmp_path / "mine@2.toml").write_text(text, encoding="utf-8")
    policy = load_policy("mine@2", tmp_path)
    assert (policy.reference, policy.profile, policy.k) == ("mine@2", "a" * 64, 50)
    assert policy.temperature == Decimal(f"{gate.temperature:.6f}")
    assert policy.growth == Decimal(f"{gate.growth:.6f}")


def test_the_file_carries_refits_to_resamples_of_artists(tmp_path: Path) -> None:
    examples = drawn(500)
    gate = fit_gate(examples, (1, 3), ridge=0.01)
    refits = bootstrap_gates(examples, gate, 5)
    assert len({fit.bias for fit in refits}) == 5
    assert min(fit.growth for fit in refits) < max(fit.growth for fit in refits)
    text = policy_text("mine@2", "a" * 64, 200, 50, gate, Fitted("b" * 64, 500, 0.25, -0.5, -0.6, -6.0), refits)
    (tmp_path / "mine@2.toml").write_text(text, encoding="utf-8")
    found = load_policy("mine@2", tmp_path).uncertainty
    assert found is not None
    assert [float(one.temperature) for one in found.replicates] == [round(fit.temperature, 6) for fit in refits]


def test_the_file_of_a_policy_that_counts_parts_has_its_background(tmp_path: Path) -> None:
    fit = PartsFit(START)
    text = policy_text("mine@2", "a" * 64, 200, 50, fit, Fitted("b" * 64, 500, 0.25, -0.5, -0.6, -6.0), [fit, fit])
    (tmp_path / "mine@2.toml").write_text(text, encoding="utf-8")
    policy = load_policy("mine@2", tmp_path)
    assert policy.background is not None
    assert policy.uncertainty is not None
    assert [replicate.background for replicate in policy.uncertainty.replicates] == [policy.background] * 2
    assert policy.parameters()["background"] == fit.settings()["background"]


def test_a_policy_is_never_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "mine@1.toml"
    write_policy(path, "one")
    assert write_policy(path, "one") == path
    with pytest.raises(Conflict, match="next version"):
        write_policy(path, "another")
    assert path.read_text() == "one"


@pytest.mark.parametrize("reference", ["paper@2", "nothing", "Mine@1"])
def test_a_name_that_cannot_be_used_is_refused_first(reference: str) -> None:
    with pytest.raises(InvalidPolicy):
        check_reference(reference)
