"""Where a VAE's codes really lie: a Gaussian mixture fitted to them once the VAE is trained (Ghosh et al., 2020)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

_PICTURES_EACH = 150
"""Pictures for each part: of 10, 20, 40 and 60 parts, 40 made codes of held-out MNIST digits likeliest after 6,000."""

_MAX_ROUNDS = 500
_LEAST_VARIANCE = 1e-3


class Mixture(nn.Module):
    """p(z) = Σ_k w_k N(z; mean_k, F_k F_kᵀ) over L numbers; one part that is standard normal until it is fitted."""

    def __init__(self, size: int) -> None:
        """size: L."""
        super().__init__()
        self._hold(torch.ones(1), torch.zeros((1, size)), torch.eye(size)[None])

    def _hold(self, weights: Tensor, means: Tensor, factors: Tensor) -> None:
        """weights: (K,), sum 1. means: (K, L). factors: (K, L, L), lower triangular."""
        self.register_buffer("weights", weights)
        self.register_buffer("means", means)
        self.register_buffer("factors", factors)

    def fit(self, codes: Tensor, pictures: int, seed: int) -> Self:
        """Fit to (N, L) codes drawn from what the encoder says of `pictures` pictures, by expectation maximisation."""
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
        """(count, L) numbers, at full temperature."""
        weights, means, factors = (self.get_buffer(name) for name in ("weights", "means", "factors"))
        parts = torch.multinomial(weights, count, replacement=True, generator=random)
        noise = torch.randn((count, means.shape[1]), generator=random)
        drawn: Tensor = means[parts] + torch.einsum("bij,bj->bi", factors[parts], noise)
        return drawn
