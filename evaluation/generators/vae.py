"""A convolutional variational autoencoder (Kingma and Welling, 2014) that samples from a mixture fitted to its codes.

Decoded standard normal codes are mostly not digits, because the encoder fills only parts of that space. So a Gaussian
mixture is fitted to the codes after training, without labels (Ghosh et al., 2020).
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.generators.sampling import BATCH, Images, Progress, batches, silent, to_unit

_PICTURES_EACH = 150
"""Pictures for each component: of 10, 20, 40 and 60 components, 40 were likeliest for held-out MNIST codes of 6,000."""

_MAX_ROUNDS = 500
_LEAST_VARIANCE = 1e-3


class Mixture(nn.Module):
    """A Gaussian mixture over L numbers, p(z) = Σ_k w_k N(z; mean_k, F_k F_kᵀ); standard normal until it is fitted."""

    def __init__(self, size: int) -> None:
        """size: L."""
        super().__init__()
        self._hold(torch.ones(1), torch.zeros((1, size)), torch.eye(size)[None])

    def _hold(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        """Store the parameters. weights: (K,), sum 1. means: (K, L). factors: (K, L, L), lower triangular."""
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("factors", factors)

    def fit(self, codes: Tensor, pictures: int, seed: int) -> Self:
        """Fit to (N, L) codes sampled from the encodings of `pictures` pictures, by expectation maximisation."""
        from sklearn.mixture import GaussianMixture

        parts = max(pictures // _PICTURES_EACH, 1)
        fitted = GaussianMixture(parts, reg_covar=_LEAST_VARIANCE, max_iter=_MAX_ROUNDS, random_state=seed)
        fitted.fit(codes.double().numpy())
        covariances = torch.from_numpy(fitted.covariances_)
        self._hold(
            torch.from_numpy(fitted.weights_).float(),
            torch.from_numpy(fitted.means_).float(),
            torch.linalg.cholesky(covariances).float(),
        )
        return self

    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Draw (count, L) numbers, at full temperature."""
        weights, means, factors = (self.get_buffer(name) for name in ("weights", "means", "factors"))
        parts = torch.multinomial(weights, count, replacement=True, generator=random)
        noise = torch.randn((count, means.shape[1]), generator=random)
        drawn: Tensor = means[parts] + torch.einsum("bij,bj->bi", factors[parts], noise)
        return drawn


LATENT = 16
_RATE = 2e-3
_WARMING = 0.05
_CODES_EACH = 4
_CHUNK = 500


class Vae(nn.Module):
    """A VAE that encodes a picture to a normal distribution over `LATENT` numbers, and decodes from it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.SiLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.SiLU(),
            nn.Flatten(), nn.Linear(64 * 49, 256), nn.SiLU(), nn.Linear(256, 2 * LATENT),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 256), nn.SiLU(), nn.Linear(256, 64 * 49), nn.SiLU(), nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1),
        )  # fmt: skip
        self.prior = Mixture(LATENT)

    def loss(self, pictures: Tensor, random: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound, in nats a picture; pictures: (B, 1, 28, 28) in [0, 1]."""
        mean, log_variance = self.encoder(pictures).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=random)
        logits = self.decoder(mean + noise * (log_variance / 2).exp())
        misfit = functional.binary_cross_entropy_with_logits(logits, pictures, reduction="sum")
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2
        bound: Tensor = (misfit + divergence) / len(pictures)
        return bound

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Encode (N, 1, 28, 28) in [0, 1] to means and log variances, (N, LATENT) each."""
        chunks = [self.encoder(pictures[start : start + _CHUNK]) for start in range(0, len(pictures), _CHUNK)]
        mean, log_variance = torch.cat(chunks).chunk(2, dim=1)
        return mean, log_variance

    @torch.no_grad()
    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Implement `Sampler.draw`: decode numbers drawn from the mixture."""
        self.eval()
        return torch.sigmoid(self.decoder(self.prior.draw(count, random)))


def train_vae(images: Images, seed: int, epochs: int = 20, progress: Progress = silent) -> Vae:
    """Train a VAE on (N, 28, 28) uint8 pictures with a one-cycle learning rate, then fit the mixture of its codes.

    The global random state is left unchanged.
    """
    pictures = to_unit(images)
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Vae()
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    steps = epochs * math.ceil(len(pictures) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, steps, pct_start=_WARMING)
    model.train()
    for epoch in range(epochs):
        for batch in batches(pictures, random):
            optimiser.zero_grad()
            model.loss(batch, random).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        progress(epoch + 1, epochs)
    model.eval()
    model.prior.fit(_codes(model, pictures, random), len(pictures), seed)
    return model


def _codes(model: Vae, pictures: Tensor, random: torch.Generator) -> Tensor:
    """Return (4 N, LATENT) codes as the decoder saw them: several samples of each picture."""
    mean, log_variance = (part.repeat(_CODES_EACH, 1) for part in model.encode(pictures))
    return mean + torch.randn(mean.shape, generator=random) * (log_variance / 2).exp()
