"""A small dense variational autoencoder that can be retrained without some of its pictures, all else equal.

The order of pictures and the noise are drawn for all pictures, whether or not they are left out. So two trainings
differ by the omitted pictures only, and their images from the same latents can be compared. The numbers of pictures,
images and retrainings were fixed before anything was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

PIXELS = 784
LATENT = 8
_HIDDEN = 128
_RATE = 4e-3
_BATCH = 50
_DARK = -3.0
"""Initial logit of the pixels: digits are mostly dark, which a few hundred steps should not have to learn."""

Kept = npt.NDArray[np.bool_]


class SmallVae(nn.Module):
    """A VAE from 784 pixels to 8 latent numbers and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(PIXELS, _HIDDEN), nn.SiLU(), nn.Linear(_HIDDEN, 2 * LATENT))
        last = nn.Linear(_HIDDEN, PIXELS)
        nn.init.constant_(last.bias, _DARK)
        self.decoder = nn.Sequential(nn.Linear(LATENT, _HIDDEN), nn.SiLU(), last)

    def forward(self, pictures: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, 784) in [0, 1] and (B, 8) to logits (B, 784), mean and log variance (B, 8)."""
        mean, log_variance = self.encoder(pictures).chunk(2, dim=-1)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance

    def bounds(self, pictures: Tensor, noise: Tensor) -> Tensor:
        """Return (B,) negative evidence lower bounds in nats; lower means a likelier picture."""
        logits, mean, log_variance = self(pictures, noise)
        misfit = functional.binary_cross_entropy_with_logits(logits, pictures, reduction="none").sum(dim=-1)
        divergence: Tensor = (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=-1) / 2
        return misfit + divergence


def train(pictures: Tensor, kept: Kept, seed: int, epochs: int) -> SmallVae:
    """Train a model on the kept ones of (N, 784) pictures in [0, 1]. The global random state is left unchanged.

    The learning rate falls to zero, so that the result depends on the pictures more than on the last steps.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallVae()
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    stays = torch.from_numpy(kept)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, epochs)
    for _ in range(epochs):
        order = torch.randperm(len(pictures), generator=random)
        noise = torch.randn((len(pictures), LATENT), generator=random)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            batch = batch[stays[batch]]
            if len(batch):
                optimiser.zero_grad()
                model.bounds(pictures[batch], noise[batch]).mean().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        schedule.step()
    return model.eval()


def latents(count: int, seed: int) -> Tensor:
    """Return (count, 8) standard normal numbers; the same for every training set."""
    return torch.randn((count, LATENT), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def draw(model: SmallVae, chosen: Tensor) -> Tensor:
    """Decode (J, 8) latents to (J, 784) pictures in [0, 1]."""
    return torch.sigmoid(model.decoder(chosen))


@torch.no_grad()
def losses(model: SmallVae, pictures: Tensor) -> Tensor:
    """Return the (J,) bounds at the mean latent, in nats: what attributions are to predict."""
    return model.bounds(pictures, torch.zeros((len(pictures), LATENT)))


SEED = 20_304
SUBSET_SEED = 10_701
DRAW_SEED = 701


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of pictures and trainings.

    works: training pictures. epochs: of one training. images: generated ones that attributions explain. subsets:
    random halves for the linear datamodelling score. moved: generated images for which works are removed. taken:
    works removed for one image. reference_models: trained on everything, over which gradients are averaged.
    """

    works: int
    epochs: int
    images: int
    subsets: int
    moved: int
    taken: int
    reference_models: int


FULL = Plan(works=400, epochs=32, images=40, subsets=32, moved=8, taken=40, reference_models=3)
SHORT = Plan(works=80, epochs=8, images=4, subsets=4, moved=2, taken=8, reference_models=1)
