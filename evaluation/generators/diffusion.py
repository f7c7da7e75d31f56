"""A small latent diffusion model (Rombach et al., 2022): DDPM's training (Ho et al., 2020), DDIM's sampling (Song et
al., 2021), on the numbers into which a VAE packs pictures. On pixels the same time made no digits that one can read."""

from __future__ import annotations

import copy
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.generators.sampling import Images, Progress, batches, silent, to_unit
from evaluation.generators.vae import LATENT, Vae, train_vae

_RATE = 1e-3
_AVERAGE = 0.995
_STEPS = 40
_WIDTH = 256
_FREQUENCIES = 16
_MOST_NOISE = 0.98
_PASSES_PER_EPOCH = 4


class Diffusion(nn.Module):
    """A VAE, and a network that names the noise in its latent numbers; time runs from 0 (clean) to 1 (noise)."""

    def __init__(self, vae: Vae, latents: Tensor) -> None:
        """latents: (N, LATENT) means of the pictures, whose own mean and spread are taken out."""
        super().__init__()
        self.vae = vae
        self.register_buffer("centre", latents.mean(dim=0))
        self.register_buffer("spread", latents.std(dim=0) + 1e-3)
        self.denoiser = nn.Sequential(
            nn.Linear(LATENT + 2 * _FREQUENCIES, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH), nn.SiLU(),
            nn.Linear(_WIDTH, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, LATENT),
        )  # fmt: skip

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """The noise, (B, LATENT), in noisy latents of the same shape at times (B,)."""
        frequencies = torch.exp(torch.linspace(0, math.log(200), _FREQUENCIES))
        angles = time[:, None] * frequencies
        named: Tensor = self.denoiser(torch.cat([noisy, angles.sin(), angles.cos()], dim=1))
        return named

    def loss(self, latents: Tensor, random: torch.Generator) -> Tensor:
        """Mean squared error of the noise named, at random times; latents: (B, LATENT), standardised."""
        time = torch.rand(len(latents), generator=random) * _MOST_NOISE
        noise = torch.randn(latents.shape, generator=random)
        signal, spread = (part[:, None] for part in _mixture(time))
        return functional.mse_loss(self(signal * latents + spread * noise, time), noise)

    @torch.no_grad()
    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """As `Sampler.draw`: 40 deterministic steps from noise, then the VAE's decoder."""
        self.eval()
        values = torch.randn((count, LATENT), generator=random)
        times = torch.linspace(_MOST_NOISE, 0, _STEPS + 1)
        for now, then in itertools.pairwise(times):
            noise = self(values, now.expand(count))
            signal, spread = _mixture(now)
            clean = (values - spread * noise) / signal
            signal, spread = _mixture(then)
            values = signal * clean + spread * noise
        latents = values * self.get_buffer("spread") + self.get_buffer("centre")
        return torch.sigmoid(self.vae.decoder(latents))


def _mixture(time: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of picture and of noise at `time`; their squares sum to 1."""
    return torch.cos(time * math.pi / 2), torch.sin(time * math.pi / 2)


def train_diffusion(images: Images, seed: int, epochs: int = 20, progress: Progress = silent) -> Diffusion:
    """A diffusion model trained on (N, 28, 28) uint8 pictures, with a VAE of its own.

    The global random state is left as it was.
    """
    return diffuse(train_vae(images, seed, epochs, progress), images, seed, epochs)


def diffuse(vae: Vae, images: Images, seed: int, epochs: int = 20) -> Diffusion:
    """A diffusion model on the latents of a trained VAE; its weights are averaged over the last steps."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        means = vae.encoder(to_unit(images))[:, :LATENT]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Diffusion(vae, means)
    latents = (means - model.get_buffer("centre")) / model.get_buffer("spread")
    average = copy.deepcopy(model.denoiser)
    optimiser = torch.optim.Adam(model.denoiser.parameters(), lr=_RATE)
    steps = 0
    for _ in range(_PASSES_PER_EPOCH * epochs):
        for batch in batches(latents, random):
            optimiser.zero_grad()
            model.loss(batch, random).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            _follow(average, model.denoiser, min(_AVERAGE, steps / (steps + 10)))
            steps += 1
    model.denoiser = average
    return model.eval()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, kept: float) -> None:
    """kept: share of what the average was; short runs would otherwise keep what they began with."""
    for mean, newest in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(newest, 1 - kept)
