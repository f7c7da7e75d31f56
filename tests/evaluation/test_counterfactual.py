"""Causes: trainings differ by what is left out alone, and what is measured of them is right."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation.counterfactual import datamodelling, retraining, trak
from evaluation.counterfactual.generator import SmallVae, latents, losses, train
from evaluation.counterfactual.retraining import Laboratory
from evaluation.generators.digits import distances, load_fashion, load_mnist, nearest, paid, shares
from evaluation.report.sections import Estimate
from gmvaluator.errors import InvalidInput
from gmvaluator.valuation.policy import load_policy

PICTURES = torch.rand((12, 784), generator=torch.Generator().manual_seed(1))
EVERYTHING = np.ones(12, dtype=bool)


def test_a_training_is_decided_by_its_seed_and_by_what_is_kept() -> None:
    state = torch.random.get_rng_state()
    one, again = (train(PICTURES, EVERYTHING, seed=1, epochs=2) for _ in range(2))
    less = train(PICTURES, EVERYTHING & (np.arange(12) != 3), seed=1, epochs=2)
    assert torch.equal(losses(one, PICTURES), losses(again, PICTURES))
    assert not torch.equal(losses(one, PICTURES), losses(less, PICTURES))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_training_never_sees_what_is_left_out() -> None:
    kept = np.arange(12) != 3
    other = PICTURES.clone()
    other[3] = 0
    one, same = (train(pictures, kept, seed=1, epochs=2) for pictures in (PICTURES, other))
    assert torch.equal(losses(one, PICTURES), losses(same, PICTURES))


def test_trainings_are_taken_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laboratory = Laboratory(PICTURES, latents(3, 1), 1, 5, tmp_path)
    first = laboratory.without(EVERYTHING)
    monkeypatch.setattr("evaluation.counterfactual.retraining.train", lambda *_: pytest.fail("trained again"))
    again = laboratory.without(EVERYTHING)
    assert np.array_equal(first.drawn, again.drawn)
    assert np.allclose(first.drawn, laboratory.originals.numpy())


@pytest.mark.parametrize("output", [trak.loss, trak.squared_output])
def test_gradients_of_a_batch_are_those_of_its_pictures(output: trak.Output) -> None:
    model = train(PICTURES, EVERYTHING, seed=1, epochs=1)
    fast = trak.gradients(model, output, PICTURES[:3])
    slow = trak.gradients_one_by_one(model, output, PICTURES[:3])
    assert torch.allclose(fast, slow, rtol=1e-4, atol=1e-4)


def test_a_sketch_keeps_inner_products_in_the_mean() -> None:
    values = torch.randn((2, 300), generator=torch.Generator().manual_seed(3))
    sketched = [sketch(values) for sketch in (trak.Sketch.of(300, seed) for seed in range(200))]
    products = [float(pair[0] @ pair[1]) for pair in sketched]
    assert np.mean(products) == pytest.approx(float(values[0] @ values[1]), abs=2.5)


def test_a_work_explains_itself_best_by_gradients() -> None:
    model = train(PICTURES, EVERYTHING, seed=1, epochs=20)
    found = trak.attributions([model], trak.loss, PICTURES, PICTURES)
    assert list(found.argmax(axis=1)) == list(range(12))


def test_the_score_is_one_for_what_predicts_and_none_for_what_says_nothing() -> None:
    random = np.random.default_rng(1)
    truth = random.random((5, 40))
    subsets = datamodelling.halves(40, 16, seed=2)
    assert all(kept.sum() == 20 for kept in subsets)
    bounds = -(truth @ np.stack(subsets).T).T
    right = datamodelling.score(truth, subsets, bounds)
    assert right.value == pytest.approx(1)
    assert datamodelling.score(-truth, subsets, bounds).value == pytest.approx(-1)
    assert datamodelling.score(np.ones((5, 40)), subsets, bounds).value == 0
    chance = datamodelling.score(random.random((5, 40)), subsets, bounds)
    assert chance.low < chance.value < chance.high < right.value


def test_the_ceiling_is_what_truth_scores_against_the_mean_of_two_noisy_trainings() -> None:
    random = np.random.default_rng(7)
    truth = random.normal(size=(4, 4_000))
    one, other = (truth + random.normal(size=truth.shape) for _ in range(2))
    agreement = float(datamodelling.correlations(one, other).mean())
    found = datamodelling.ceiling(Estimate(agreement, 0.0, 1.0))
    assert found.value == pytest.approx(datamodelling.correlations(truth, (one + other) / 2).mean(), abs=0.02)
    assert (found.low, found.high) == (0, 1)


def test_the_works_left_out_are_those_a_row_values_most() -> None:
    matrix = np.tile(np.arange(12.0), (2, 1))
    everything = dict.fromkeys(
        (datamodelling.UNCUT, datamodelling.RERANKED, datamodelling.PIXELS, datamodelling.TRAK, datamodelling.D_TRAK),
        matrix,
    )
    chosen = retraining.choices(everything, images=2, taken=3)
    assert list(np.flatnonzero(~chosen[f"top by {datamodelling.RERANKED}"][0])) == [9, 10, 11]
    assert list(np.flatnonzero(~chosen["least like it, re-ranked"][1])) == [0, 1, 2]
    assert all((~kept).sum() == 3 for masks in chosen.values() for kept in masks)


def test_what_a_policy_pays_is_paid_to_the_nearest() -> None:
    vectors = np.eye(4, 6, dtype=np.float32)
    query = (vectors[:1] * 3 + vectors[1:2] * 2) / np.float32(13**0.5)
    near = nearest(distances(query, vectors), 2)
    assert near.rows.tolist() == [[0, 1]]
    matrix = paid(near, shares(near, load_policy("paper@1")), works=4, quality=np.array([0.5]))
    assert matrix.sum() == pytest.approx(0.5)
    assert matrix[0, 0] > matrix[0, 1] > matrix[0, 2] == 0


def test_digits_come_shuffled_and_fashion_needs_its_files(tmp_path: Path) -> None:
    digits = load_mnist()
    assert digits.images.shape == (10_000, 28, 28)
    assert len(set(digits.labels[:100])) == 10
    with pytest.raises(InvalidInput, match="10,001"):
        digits.part(0, 10_001)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(InvalidInput, match="idx"):
        load_fashion(tmp_path)


def test_a_small_vae_answers_pictures_of_their_size() -> None:
    logits, mean, spread = SmallVae()(PICTURES, torch.zeros((12, 8)))
    assert (logits.shape, mean.shape, spread.shape) == ((12, 784), (12, 8), (12, 8))
