"""Small generators: what they draw resembles what they learnt from, and a seed decides everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.generators import sample, train_diffusion, train_vae
from evaluation.generators.vae import Mixture

TRAINERS = [train_vae, train_diffusion]


def _bars() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bright left halves."""
    pictures = np.zeros((32, 28, 28), dtype=np.uint8)
    pictures[:, :, :14] = 255
    return pictures


@pytest.mark.parametrize("train", TRAINERS)
def test_what_is_drawn_resembles_what_was_learnt_and_is_as_diverse(train: Callable[..., Any]) -> None:
    pictures = np.concatenate([_bars(), _bars()[:, :, ::-1]])
    drawn = sample(train(pictures, seed=1, epochs=80), 40, seed=2)
    assert drawn.shape == (40, 28, 28)
    assert drawn.dtype == np.uint8
    left_minus_right = drawn[:, :, :12].mean(axis=(1, 2)) - drawn[:, :, 16:].mean(axis=(1, 2))
    assert np.median(abs(left_minus_right)) > 100
    assert 5 <= (left_minus_right > 0).sum() <= 35


@pytest.mark.parametrize("train", TRAINERS)
def test_a_seed_decides_everything_and_the_global_state_is_left_alone(train: Callable[..., Any]) -> None:
    state = torch.random.get_rng_state()
    first, second = (sample(train(_bars(), seed=3, epochs=1), 4, seed=5) for _ in range(2))
    assert np.array_equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not np.array_equal(first, sample(train(_bars(), seed=4, epochs=1), 4, seed=5))


@pytest.mark.parametrize("train", TRAINERS)
def test_progress_counts_epochs(train: Callable[..., Any]) -> None:
    seen: list[tuple[int, int]] = []
    train(_bars(), seed=0, epochs=2, progress=lambda done, total: seen.append((done, total)))
    total = 4 if train is train_diffusion else 2  # a VAE of its own comes first
    assert seen == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize("train", TRAINERS)
def test_pictures_of_another_kind_are_refused(train: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="28, 28"):
        train(np.zeros((4, 32, 32), dtype=np.uint8), seed=0, epochs=1)


def test_a_mixture_draws_from_where_codes_lie_and_nowhere_between() -> None:
    state = np.random.get_state(legacy=False)["state"]["key"]
    two = torch.cat([torch.full((600, 3), -4.0), torch.full((600, 3), 4.0)])
    codes = two + torch.randn((1200, 3), generator=torch.Generator().manual_seed(1))
    drawn = Mixture(3).fit(codes, pictures=300, seed=2).draw(500, torch.Generator().manual_seed(3))
    assert drawn.dtype == torch.float32
    assert (drawn.abs() > 0.5).all(dim=1).float().mean() > 0.99
    assert 0.4 < (drawn[:, 0] > 0).float().mean() < 0.6
    assert drawn.abs().std(dim=0).tolist() == pytest.approx([1, 1, 1], abs=0.15)
    assert np.array_equal(state, np.random.get_state(legacy=False)["state"]["key"])


def test_a_mixture_is_standard_normal_until_it_is_fitted() -> None:
    drawn = Mixture(3).draw(2000, torch.Generator().manual_seed(1))
    assert drawn.mean(dim=0).tolist() == pytest.approx([0, 0, 0], abs=0.1)
    assert torch.cov(drawn.T).flatten().tolist() == pytest.approx(torch.eye(3).flatten().tolist(), abs=0.1)
