"""Gradient-based attribution of the small generator: TRAK (Park et al., 2023) and D-TRAK (Zheng et al., 2024).

    φ(x)     = Pᵀ ∇_θ f(x; θ)                                     f: TRAK, the loss; D-TRAK, the squared output
    τ(x̂, x_i) = (1/M) Σ_m φ_m(x̂)ᵀ (Φ_mᵀ Φ_m + λ I)⁻¹ φ_m(x_i)      m: models, Φ: rows φ(x_i) of all works

P → `Sketch`: TRAK's random projection, here a sparse one (Charikar et al., 2002), which preserves inner products in
expectation and costs one addition a parameter. λ → `damping`, in units of the mean of Φ's diagonal. TRAK's weights
(1 - p) apply to classification only and are omitted, as in D-TRAK. Both sides of τ use the same f, so that a large τ
means that training on x_i lowers the loss of x̂.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from evaluation.counterfactual.generator import LATENT, SmallVae

DIMENSIONS = 1024
DAMPING = 0.1
_CHUNK = 50
_SEED = 77

Values = npt.NDArray[np.float64]
Output = Callable[[SmallVae, dict[str, Tensor], Tensor], Tensor]
"""f: a model, its parameters and one picture (784,) to a scalar."""


def loss(model: SmallVae, parameters: dict[str, Tensor], picture: Tensor) -> Tensor:
    """Compute TRAK's f: the bound at the mean latent."""
    logits, mean, log_variance = functional_call(model, parameters, (picture, torch.zeros(LATENT)))
    misfit = torch.nn.functional.binary_cross_entropy_with_logits(logits, picture, reduction="sum")
    bound: Tensor = misfit + (mean**2 + log_variance.exp() - 1 - log_variance).sum() / 2
    return bound


def squared_output(model: SmallVae, parameters: dict[str, Tensor], picture: Tensor) -> Tensor:
    """Compute D-TRAK's f: the squared norm of the model's output."""
    logits, _, _ = functional_call(model, parameters, (picture, torch.zeros(LATENT)))
    norm: Tensor = (logits**2).sum()
    return norm


@dataclass(frozen=True, slots=True)
class Sketch:
    """A random projection that adds each of P numbers, with a random sign, to one of `DIMENSIONS` places: E[<Sx, Sy>]
    = <x, y>."""

    places: Tensor
    signs: Tensor

    @classmethod
    def of(cls, size: int, seed: int = _SEED) -> Sketch:
        """Make a sketch of P = `size` numbers."""
        random = torch.Generator().manual_seed(seed)
        places = torch.randint(DIMENSIONS, (size,), generator=random)
        return cls(places, torch.randint(2, (size,), generator=random).float() * 2 - 1)

    def __call__(self, rows: Tensor) -> Tensor:
        """Project (B, P) to (B, DIMENSIONS)."""
        return torch.zeros(len(rows), DIMENSIONS).index_add_(1, self.places, rows * self.signs)


def gradients(model: SmallVae, output: Output, pictures: Tensor) -> Tensor:
    """Return (B, P) gradients of `output` for (B, 784) pictures, one row a picture with all parameters."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def of_one(values: dict[str, Tensor], picture: Tensor) -> Tensor:
        return output(model, values, picture)

    per_parameter: dict[str, Any] = vmap(grad(of_one), in_dims=(None, 0))(parameters, pictures)
    return torch.cat([per_parameter[name].flatten(1) for name in parameters], dim=1)


def gradients_one_by_one(model: SmallVae, output: Output, pictures: Tensor) -> Tensor:
    """Compute what `gradients` computes, by one backward pass per picture."""
    rows = []
    for picture in pictures:
        parameters = {name: value.detach().requires_grad_() for name, value in model.named_parameters()}
        gradients = torch.autograd.grad(
            output(model, parameters, picture), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        rows.append(torch.cat([part.flatten() for part in gradients]))
    return torch.stack(rows)


def attributions(
    models: Sequence[SmallVae], output: Output, works: Tensor, images: Tensor, damping: float = DAMPING
) -> Values:
    """Return (J, N) τ for (N, 784) works and (J, 784) generated images, averaged over the models."""
    gradients = [_of_model(model, output, works, images, damping) for model in models]
    return np.asarray(torch.stack(gradients).mean(dim=0).numpy())


def _of_model(model: SmallVae, output: Output, works: Tensor, images: Tensor, damping: float) -> Tensor:
    sketch = Sketch.of(sum(value.numel() for value in model.parameters()))
    of_works, of_images = (_sketched(model, output, rows, sketch).double() for rows in (works, images))
    gram = of_works.T @ of_works
    ridge = damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    gradients: Tensor = of_images @ torch.linalg.solve(gram + ridge, of_works.T)
    return gradients


def _sketched(model: SmallVae, output: Output, pictures: Tensor, sketch: Sketch) -> Tensor:
    return torch.cat([sketch(gradients(model, output, chunk)) for chunk in torch.split(pictures, _CHUNK)])
