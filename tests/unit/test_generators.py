"""Small generators: what they draw resembles what they learnt from, and a seed decides everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.generators import sample, train_diffusion, train_vae

TRAINERS = [train_vae, train_diffusion]


def _bars() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Bright left halves."""
    pictures = np.zeros((32, 28, 28), dtype=np.uint8)
    pictures[:, :, :14] = 255
    return pictures


@pytest.mark.parametrize("train", TRAINERS)
def test_what_is_drawn_resembles_what_was_learnt(train: Callable[..., Any]) -> None:
    drawn = sample(train(_bars(), seed=1, epochs=200), 8, seed=2)
    assert drawn.shape == (8, 28, 28)
    assert drawn.dtype == np.uint8
    assert drawn[:, :, :12].mean() > drawn[:, :, 16:].mean() + 100


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
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("train", TRAINERS)
def test_pictures_of_another_kind_are_refused(train: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="28, 28"):
        train(np.zeros((4, 32, 32), dtype=np.uint8), seed=0, epochs=1)
